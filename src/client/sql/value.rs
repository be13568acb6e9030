//! Values, parameters and rows.

use std::sync::Arc;

/// A value as SQLite has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number, exact to its last digit.
    Integer(i64),
    /// A floating-point number. An infinity can be read, but not sent.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// What kind it is, as SQLite's `typeof` says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Integer(_) => "integer",
            Value::Real(_) => "real",
            Value::Text(_) => "text",
            Value::Blob(_) => "blob",
        }
    }
}

macro_rules! into_value {
    ($($type:ty => $make:expr),+ $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Value {
                let make: fn($type) -> Value = $make;
                make(value)
            }
        })+
    };
}

into_value! {
    i64 => Value::Integer, i32 => |value| Value::Integer(value.into()), i16 => |value| Value::Integer(value.into()),
    u32 => |value| Value::Integer(value.into()), u16 => |value| Value::Integer(value.into()),
    u8 => |value| Value::Integer(value.into()), bool => |value| Value::Integer(value.into()), f64 => Value::Real,
    String => Value::Text, &str => |value| Value::Text(value.to_owned()), &String => |value| Value::Text(value.clone()),
    Vec<u8> => Value::Blob, &[u8] => |value| Value::Blob(value.to_owned()), () => |()| Value::Null,
    crate::fence::Token => |token| Value::Integer(token.as_i64()),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// What stands for a statement's parameters: `()` for none, `params![…]` for `?`, and an array of names and values for `:name`,
/// `@name` and `$name`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl From<()> for Params {
    fn from((): ()) -> Params {
        Params::default()
    }
}

impl From<Vec<Value>> for Params {
    fn from(positional: Vec<Value>) -> Params {
        Params { positional, named: Vec::new() }
    }
}

impl<const N: usize> From<[Value; N]> for Params {
    fn from(positional: [Value; N]) -> Params {
        Params::from(positional.to_vec())
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Params {
    fn from(named: [(&str, Value); N]) -> Params {
        let named = named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Params { positional: Vec::new(), named }
    }
}

/// Values of any kinds, for the parameters `?` of a statement in their order.
///
/// ```
/// use fencegate::client::{Value, params};
/// assert_eq!(params![1, "two", None::<i64>], [Value::Integer(1), Value::Text("two".into()), Value::Null]);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        [$($crate::client::Value::from($value)),*] as [$crate::client::Value; $crate::params!(@count $($value),*)]
    };
    (@count) => { 0 };
    (@count $first:expr $(, $rest:expr)*) => { 1 + $crate::params!(@count $($rest),*) };
}

/// One statement with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub(super) sql: String,
    pub(super) params: Params,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), params: Params::default() }
    }

    /// The same with these parameters.
    #[must_use]
    pub fn with(self, params: impl Into<Params>) -> Statement {
        Statement { params: params.into(), ..self }
    }
}

/// What a statement has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed {
    /// How many rows it has inserted, changed or deleted.
    pub rows_changed: u64,
    /// The rowid of the last row that was inserted on this connection; `None` where none ever was.
    pub last_insert_rowid: Option<i64>,
}

/// A statement's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub(super) columns: Arc<[String]>,
    pub(super) rows: Vec<Row>,
    pub(super) executed: Executed,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub(super) columns: Arc<[String]>,
    pub(super) values: Vec<Value>,
}

impl Rows {
    /// The names of the columns. A column without one has the empty text.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// What the statement has changed.
    pub fn executed(&self) -> Executed {
        self.executed
    }
}

impl std::ops::Deref for Rows {
    type Target = [Row];
    fn deref(&self) -> &[Row] {
        &self.rows
    }
}

impl IntoIterator for Rows {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;
    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a> IntoIterator for &'a Rows {
    type Item = &'a Row;
    type IntoIter = std::slice::Iter<'a, Row>;
    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

/// A value is not there, or of another type than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: wanted {wanted}, found {found}")]
pub struct ValueError {
    /// The column's name or number.
    pub column: String,
    /// What was asked for.
    pub wanted: &'static str,
    /// What is there.
    pub found: &'static str,
}

impl Row {
    /// The value of a column, by its number from 0 or its name; of two of one name the first.
    ///
    /// # Errors
    /// [`ValueError`]: there is no such column, or its value is of another type.
    #[expect(clippy::needless_pass_by_value, reason = "a number, or a name that is borrowed already")]
    pub fn get<T: FromValue>(&self, column: impl Column) -> Result<T, ValueError> {
        let error = |found| ValueError { column: column.describe(), wanted: T::WANTED, found };
        let value = column.of(&self.columns).and_then(|index| self.values.get(index));
        let value = value.ok_or_else(|| error("no such column"))?;
        T::from_value(value).ok_or_else(|| error(value.kind()))
    }

    /// All its values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

/// What names a column: its number from 0, or its name.
pub trait Column {
    /// Its number in a row with these columns.
    fn of(&self, columns: &[String]) -> Option<usize>;
    /// For people.
    fn describe(&self) -> String;
}

impl Column for usize {
    fn of(&self, _: &[String]) -> Option<usize> {
        Some(*self)
    }
    fn describe(&self) -> String {
        self.to_string()
    }
}

impl Column for &str {
    fn of(&self, columns: &[String]) -> Option<usize> {
        columns.iter().position(|column| column == self)
    }
    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

/// What a value can be read as. Nothing is converted on the way but whole numbers, where they fit.
pub trait FromValue: Sized {
    /// Its name, for errors.
    const WANTED: &'static str;
    /// Reads it; `None` where it is of another type.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty, $wanted:literal, $pattern:pat => $made:expr);+ $(;)?) => {
        $(impl FromValue for $type {
            const WANTED: &'static str = $wanted;
            fn from_value(value: &Value) -> Option<$type> {
                match value {
                    $pattern => $made,
                    #[allow(unreachable_patterns, reason = "a Value is read from all of them")]
                    _ => None,
                }
            }
        })+
    };
}

from_value! {
    i64, "an integer", Value::Integer(number) => Some(*number);
    i32, "an integer of 32 bits", Value::Integer(number) => i32::try_from(*number).ok();
    u64, "an integer from 0", Value::Integer(number) => u64::try_from(*number).ok();
    u32, "an integer from 0 of 32 bits", Value::Integer(number) => u32::try_from(*number).ok();
    bool, "0 or 1", Value::Integer(number @ (0 | 1)) => Some(*number == 1);
    f64, "a real", Value::Real(number) => Some(*number);
    String, "a text", Value::Text(text) => Some(text.clone());
    Vec<u8>, "a blob", Value::Blob(bytes) => Some(bytes.clone());
    Value, "any value", value => Some(value.clone());
}

impl<T: FromValue> FromValue for Option<T> {
    const WANTED: &'static str = T::WANTED;
    fn from_value(value: &Value) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
