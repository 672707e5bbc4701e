# What every locally trained config needs beside `model.backbone` and `optim_wrapper.type`.
custom_hooks = [dict(type='man_mm.FeatureBankHook')]
find_unused_parameters = True
