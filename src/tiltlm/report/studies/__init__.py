"""Pages of studies that train: the plane of KL and reward, and methods compared."""
