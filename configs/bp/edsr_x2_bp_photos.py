_base_ = '../_base_/edsr_photos_x2.py'
randomness = dict(seed=0)
