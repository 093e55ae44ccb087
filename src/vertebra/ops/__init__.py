"""Pure functions on tensors: no modules, no state. torchvision.ops has the rest."""
