"""A rewrite rule of one's own, in a pipeline as `my_rule:swish`."""

from planish import RewriteRule

swish = RewriteRule(
    "swish",
    pattern=lambda op, x: op.Mul(x, op.Sigmoid(x)),
    replacement=lambda op, x: op.Swish(x),
)
