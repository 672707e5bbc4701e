_base_ = 'edsr_x3_dgl_k16_div2k.py'
model = dict(generator=dict(num_modules=4))
load_from = 'work_dirs/edsr_x2_dgl_k4_div2k/iter_300000.pth'
