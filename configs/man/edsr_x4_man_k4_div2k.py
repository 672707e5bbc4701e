_base_ = 'edsr_x4_man_k16_div2k.py'
model = dict(generator=dict(num_modules=4))
load_from = 'work_dirs/edsr_x2_man_k4_div2k/iter_300000.pth'
