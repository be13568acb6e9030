//! The gate's own paths. Each listener has them in one table, which says what is answered there, what is answered 405, and what its
//! OpenAPI document has to describe.

use hyper::Method;

use crate::problem::Problem;

/// For paths that are read.
pub const GET: &str = "GET, HEAD";
/// For paths that do something.
pub const POST: &str = "POST";

/// One path.
#[derive(Debug, Clone, Copy)]
pub struct Row<R> {
    /// As an OpenAPI document has it: a part in braces stands for any one. At most one part is so.
    pub path: &'static str,
    /// The methods that it takes, as `Allow` has them.
    pub methods: &'static str,
    /// What is there.
    pub route: R,
}

/// One row.
pub const fn row<R: Copy>(path: &'static str, methods: &'static str, route: R) -> Row<R> {
    Row { path, methods, route }
}

impl<R: Copy> Row<R> {
    /// What is there, for a request with this method.
    ///
    /// # Errors
    /// [`Kind::MethodNotAllowed`](crate::problem::Kind::MethodNotAllowed).
    pub fn for_method(&self, method: &Method) -> Result<R, Problem> {
        if self.methods.split(", ").any(|taken| taken == method.as_str()) {
            Ok(self.route)
        } else {
            Err(Problem::method_not_allowed(self.methods))
        }
    }
}

/// The row of the path with these parts, and the part that its braces stand for: empty where it has none.
pub fn find<'a, R>(rows: &'static [Row<R>], segments: &[&'a str]) -> Option<(&'static Row<R>, &'a str)> {
    rows.iter().find_map(|row| {
        let parts = row.path.strip_prefix('/')?.split('/');
        let mut named = "";
        if parts.clone().count() != segments.len() {
            return None;
        }
        for (part, segment) in parts.zip(segments) {
            match part.starts_with('{') {
                true => named = segment,
                false if part == *segment => {}
                false => return None,
            }
        }
        Some((row, named))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Row<u8>] =
        &[row("/", GET, 0), row("/a", GET, 1), row("/a/{x}", GET, 2), row("/a/{x}/b", POST, 3), row("/{x}/c", GET, 4)];

    #[test]
    fn a_path_is_found_by_its_parts() {
        for (segments, expected) in [
            (&[""][..], Some((0, ""))),
            (&["a"], Some((1, ""))),
            (&["a", "é/ü"], Some((2, "é/ü"))),
            (&["a", ""], Some((2, ""))),
            (&["a", "y", "b"], Some((3, "y"))),
            (&["z", "c"], Some((4, "z"))),
            (&["b"], None),
            (&["a", "y", "c"], None),
            (&["a", "y", "b", ""], None),
            (&[], None),
        ] {
            assert_eq!(find(ROWS, segments).map(|(row, named)| (row.route, named)), expected, "{segments:?}");
        }
    }

    #[test]
    fn other_methods_are_told_which_there_are() {
        assert_eq!(ROWS[0].for_method(&Method::HEAD), Ok(0));
        for method in [Method::POST, Method::OPTIONS, Method::TRACE, Method::from_bytes(b"GE").expect("a method")] {
            assert_eq!(ROWS[0].for_method(&method).expect_err("refused").allow, Some(GET), "{method}");
        }
    }
}
