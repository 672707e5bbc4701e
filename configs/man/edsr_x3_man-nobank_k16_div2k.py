_base_ = 'edsr_x3_man_k16_div2k.py'
model = dict(generator=dict(bank=False))
load_from = 'work_dirs/edsr_x2_man-nobank_k16_div2k/iter_300000.pth'
