"""The passes, in the order in which `convert` runs them. Each is one file and edits the graph in place."""

if __name__ != "deltafx.passes":
    raise ImportError("this folder is the package deltafx.passes; install deltafx and import it under that name.")

from deltafx.passes.assign_payload import assign_payload
from deltafx.passes.canonicalise_operators import canonicalise_operators
from deltafx.passes.context import Context
from deltafx.passes.drop_inference_noops import drop_inference_noops
from deltafx.passes.fold_affine import fold_affine
from deltafx.passes.fold_constants import fold_constants
from deltafx.passes.functionalise import functionalise
from deltafx.passes.fuse_pointwise import fuse_pointwise
from deltafx.passes.hoist_shapes import hoist_shapes
from deltafx.passes.lower import lower
from deltafx.passes.place_truncation import place_truncation
from deltafx.passes.plan_buffers import plan_buffers
from deltafx.passes.rewrite_to_delta import rewrite_to_delta
from deltafx.passes.take_attention_apart import take_attention_apart

PASSES = (
    drop_inference_noops,
    functionalise,  # before operators are built, which are all out of place
    fold_constants,  # a weight that is computed from weights must be constant to be an operator's own
    take_attention_apart,  # its weights and masks are constants by now
    canonicalise_operators,
    fold_affine,
    rewrite_to_delta,
    hoist_shapes,  # who asks a convolution for its size would be a second reader, and prevent its fusion
    fuse_pointwise,  # after folding, so that a batch norm does not stand between convolution and activation
    place_truncation,  # one truncation point for a fused node
    assign_payload,
    plan_buffers,  # after the payload: differences have no buffers to share
    lower,
)

__all__ = ["PASSES", "Context", *(each.__name__ for each in PASSES)]
