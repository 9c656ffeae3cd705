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
from deltafx.passes.lower import lower
from deltafx.passes.place_truncation import place_truncation
from deltafx.passes.plan_buffers import plan_buffers
from deltafx.passes.rewrite_to_delta import rewrite_to_delta

PASSES = (
    drop_inference_noops,
    functionalise,  # before operators are built, which are all out of place
    canonicalise_operators,
    fold_constants,  # a frozen batch norm's constants must be constants before they can be folded
    fold_affine,
    rewrite_to_delta,
    fuse_pointwise,  # after folding, so that a batch norm does not stand between convolution and activation
    place_truncation,  # one truncation point for a fused node
    assign_payload,
    plan_buffers,  # after the payload: differences have no buffers to share
    lower,
)

__all__ = ["PASSES", "Context", *(each.__name__ for each in PASSES)]
