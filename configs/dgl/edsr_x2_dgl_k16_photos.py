# The module's output through the tail of the network, without the bank: local learning as it was before MAN.
_base_ = '../man/edsr_x2_man_k16_photos.py'
model = dict(generator=dict(bank=False, auxiliary=dict(units_per_stage=0)))
