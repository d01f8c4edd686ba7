"""HDF5 files: laid out by h5py, filled and read past its lock."""
