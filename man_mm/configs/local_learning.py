# What every locally trained config needs beside `model.backbone`, in MMEngine's pure Python style.
from man_mm.engine import FeatureBankHook, LocalOptimWrapper

optim_wrapper = dict(type=LocalOptimWrapper)
custom_hooks = [dict(type=FeatureBankHook)]
find_unused_parameters = True
