_base_ = './schedule_160e_batch64.py'

optim_wrapper = dict(optimizer=dict(lr=0.001))  # YOLOv1's squared errors are sums over the image
auto_scale_lr = dict(base_batch_size=32)
