_base_ = '../_base_/edsr_photos_x4.py'
randomness = dict(seed=0)
