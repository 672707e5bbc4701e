_base_ = 'edsr_x2_dgl_k16_photos.py'
model = dict(generator=dict(num_modules=4))
