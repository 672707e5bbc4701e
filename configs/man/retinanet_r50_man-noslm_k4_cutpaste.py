_base_ = './retinanet_r50_man_k4_cutpaste.py'
# the bank without the SLM: maps of later stages are resampled from the module's output
model = dict(
    backbone=dict(
        auxiliary=dict(
            _delete_=True,
            type='man_mm.DGLPyramid',
            neck={{_base_.model.neck}},
            banked_levels=True,
            head='shared',
        )
    )
)
