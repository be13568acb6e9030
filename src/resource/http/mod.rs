//! An HTTP service behind the gate, fenced with guarantee *drained*.
