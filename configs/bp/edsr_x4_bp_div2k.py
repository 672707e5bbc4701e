_base_ = '../_base_/edsr_div2k_x4.py'
randomness = dict(seed=0)
load_from = 'work_dirs/edsr_x2_bp_div2k/iter_300000.pth'  # EDSR trains x3 and x4 from x2
