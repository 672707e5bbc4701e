# As the authors' code runs ResNet-32 with "K = 16" and d = 3: 13 modules, of one unit each but the last, of four.
_base_ = './resnet32_auglocal_k16_cifar10.py'
first_12 = ['stem', *(f'layer1.{i}' for i in range(5)), *(f'layer2.{i}' for i in range(5)), 'layer3.0']
model = dict(backbone=dict(num_modules=13, partition=first_12))
