"""From a Relax module to a shared library: TVM's passes, LLVM, the cache of kernels, their check and the linker."""
