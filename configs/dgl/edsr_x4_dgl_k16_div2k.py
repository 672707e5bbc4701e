# The module's output through the tail of the network, without the bank: local learning as it was before MAN.
_base_ = '../man/edsr_x4_man_k16_div2k.py'
model = dict(generator=dict(bank=False, auxiliary=dict(units_per_stage=0)))
load_from = 'work_dirs/edsr_x2_dgl_k16_div2k/iter_300000.pth'
