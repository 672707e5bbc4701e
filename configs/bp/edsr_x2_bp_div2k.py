_base_ = '../_base_/edsr_div2k_x2.py'
randomness = dict(seed=0)
