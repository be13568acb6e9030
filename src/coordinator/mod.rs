//! Seam 2: what elects a leader and issues the token.
