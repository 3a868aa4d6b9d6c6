"""What work costs on a machine, by which kernels choose tiles, algorithms and how many threads they wake.

The unit is a multiply-add of float32 vectors. The figures were chosen on x86 with AVX-512 (two threads of Zen 4) while
the kernels were written, which `planish tune` and `benchmarks/tvm_speed.py` check against other choices; no other
machine has figures of its own yet. Where a field says no more, the measurement behind its figure wasn't kept.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """The figures of one machine.

    Attributes:
        latency: multiply-adds in flight at once on the widest machines, with fewer units idle; it isn't measured.
        load: multiply-adds that take as long as loading a vector from L3, or a vector of weights that is used once.
            Chosen with convolutions of one pixel, and of 3x3 taps by Winograd's algorithm.
        fetch: multiply-adds that take as long as loading a vector from the memory that threads share; chosen with the
            latter.
        move: multiply-adds that take as long as transforming a vector by Winograd's algorithm; chosen with the same.
        l2_bytes: bytes of L2 that a task may fill; up to twice as many may spill into L3, which is somewhat slower.
        winograd_gain: the share of the direct convolution's time up to which Winograd's algorithm pays, as it costs
            space and accuracy: a judgement.
        streams: pixels read side by side without cache misses; chosen with `planish tune` for convolutions of one tap.
        stall: the cost of each pixel beyond `streams`; chosen likewise.
        most_rows: the most rows of a GEMM read side by side: at a distance of a power of two, they share a set of L1.
        rows_per_thread: rows of a GEMM per thread from which reading all weights doesn't hold a thread up.
        gemm_work: multiply-adds of float32 in a GEMM below which waking other threads costs more than they save.
        convolution_work: multiply-adds of a convolution below which waking other threads costs more than they save.
        convolution_weights: weights of a convolution from which threads are woken all the same.
        vector_work: operations on vectors below which waking other threads costs more than they save.
        row_elements: elements of rows below which waking other threads costs more than they save.
        chunk: elements of a task in kernels that walk through memory: waking a thread for fewer costs more.
        few_bits_rows: rows up to which unpacking codes for each tile is faster than a whole panel once
            (`benchmarks/few_bits_kernels.py` compares 1 to 128 rows).
        few_bits_vectors: the most vectors in a tile of up to `few_bits_rows` rows.
        sparse_load: the share of a load that isn't hidden behind multiply-adds where blocks of weights are skipped.
        sparse_vectors: the most vectors of a block that may be left out: wider ones are seldom zero as a whole.
        sparse_rows: rows that all panels of weights with skipped blocks are multiplied with in turn.
        sparse_gain: the share of the dense kernel's estimated time up to which skipping blocks pays
            (`benchmarks/sparse_kernels.py` compares densities; measured on Sapphire Rapids).
    """

    latency: int = 8
    load: int = 3
    fetch: int = 6
    move: int = 6
    l2_bytes: int = 3 << 18
    winograd_gain: float = 0.9
    streams: int = 10
    stall: float = 0.5
    most_rows: int = 8
    rows_per_thread: int = 32
    gemm_work: int = 1 << 16
    convolution_work: int = 1 << 17
    convolution_weights: int = 1 << 15
    vector_work: int = 1 << 14
    row_elements: int = 1 << 14
    chunk: int = 1 << 12
    few_bits_rows: int = 8
    few_bits_vectors: int = 8
    sparse_load: float = 0.25
    sparse_vectors: int = 3
    sparse_rows: int = 32
    sparse_gain: float = 0.85


AVX512 = Costs()
