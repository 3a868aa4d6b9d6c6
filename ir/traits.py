"""What operators have in common, for analyses and passes to ask; each says so where it is registered (`ir/ops`)."""

from enum import Flag, auto


class Trait(Flag):
    """Facts about what an operator computes.

    Attributes:
        ELEMENTWISE: an element of the first output depends on the elements of the operands at its place alone, to which
            they are broadcast.
        BROADCASTING: it broadcasts all operands to one another.
        COMMUTATIVE: the order of the operands doesn't matter.
        MOVING: the outputs hold elements of the inputs as they are.
        INDEXING: the second input holds places along an axis of the first.
        RESHAPING: the output is the first input in another shape, in the same row-major order.
        DISCONTINUOUS: it makes floats from floats, and jumps.
        QUANTIZING: it rounds floats to a grid of integers.
        SHAPE_ONLY: it reads the sizes of its input and none of its elements.
        RANDOM: two runs differ.
        WITHOUT_GRADIENT: it computes in integers what stands for floats, and passes no gradient on.
        CONTRACTING: it sums products of an activation with a second operand, as a rule weights.
        RECURRENT: a contraction at each step of a sequence, with a state.
    """

    NONE = 0
    ELEMENTWISE = auto()
    BROADCASTING = auto()
    COMMUTATIVE = auto()
    MOVING = auto()
    INDEXING = auto()
    RESHAPING = auto()
    DISCONTINUOUS = auto()
    QUANTIZING = auto()
    SHAPE_ONLY = auto()
    RANDOM = auto()
    WITHOUT_GRADIENT = auto()
    CONTRACTING = auto()
    RECURRENT = auto()
