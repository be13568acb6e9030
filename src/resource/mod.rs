//! Seam 1: the thing written to.
