"""TVM's passes over Relax, in a form that gives the same library for the same graph."""

from tvm import IRModule, relax, tirx, transform


def legalization() -> transform.Pass:
    """Return the first of TVM's default passes over Relax, after which there is a kernel behind every call."""
    dispatch = [relax.backend.DispatchSampling(), relax.backend.DispatchSortScan()]
    return transform.Sequential([*dispatch, relax.transform.LegalizeOps()])


def pipeline() -> transform.Pass:
    """Return TVM's default passes over Relax, and one that sorts the computations of sizes by where they are stored."""
    return transform.Sequential([relax.get_pipeline("default"), transform.module_pass(_sort_sizes, opt_level=0)])


def _sort_sizes(module: IRModule, _context: transform.PassContext) -> IRModule:
    for name, function in module.functions_items():
        if not name.name_hint.startswith("shape_func") or not isinstance(function, tirx.PrimFunc):
            continue
        if isinstance(function.body, tirx.SeqStmt):
            stores = sorted(function.body.seq, key=_place)
            module[name] = function.with_body(tirx.SeqStmt(stores))
    return module


def _place(store: tirx.Stmt) -> int:
    assert isinstance(store, tirx.BufferStore)
    index = store.indices[0]
    assert isinstance(index, tirx.IntImm)
    return int(index)
