_base_ = 'edsr_x4_dgl_k16_div2k.py'
model = dict(generator=dict(num_modules=4))
