"""The way from a Relax module to a shared library: TVM's passes, LLVM, the cache and check of kernels, linking."""
