//! Rows in the binary form of COPY: the fastest way in. Where many rows come at once, arrays to be taken apart again take a
//! third longer. The form: <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".

use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::Error;
use crate::time::At;

/// Rows on their way into a table. Each field is put in the order of the columns.
pub(crate) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
}

/// What begins every COPY: a signature, flags, the length of an extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// So few rows go as arrays in one statement instead: the two messages that end a COPY leave in packets of their own, and
/// the second waits until the server's system acknowledges the first, which it puts off for 40 ms.
pub(crate) const FEW: usize = 64;

/// Bytes in a message. The server takes room for one of them.
const MESSAGE_LEN: usize = 256 * 1024;

impl Rows {
    /// Begins rows of so many columns.
    pub fn new(columns: i16) -> Rows {
        Rows { bytes: HEAD.to_vec(), columns }
    }

    /// Begins the next row.
    pub fn row(&mut self) -> &mut Rows {
        self.bytes.extend(self.columns.to_be_bytes());
        self
    }

    /// Puts a `bigint`.
    pub fn bigint(&mut self, value: impl Into<Option<i64>>) -> &mut Rows {
        let value = value.into();
        self.put(value.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice))
    }

    /// Puts an `integer`.
    pub fn integer(&mut self, value: i32) -> &mut Rows {
        self.put(Some(&value.to_be_bytes()))
    }

    /// Puts a `real`.
    pub fn real(&mut self, value: Option<f32>) -> &mut Rows {
        self.put(value.map(f32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice))
    }

    /// Puts a `timestamptz`.
    pub fn time(&mut self, value: At) -> &mut Rows {
        self.put(Some(&value.since_2000_us().to_be_bytes()))
    }

    /// Puts a `uuid`.
    pub fn uuid(&mut self, value: Uuid) -> &mut Rows {
        self.put(Some(value.as_bytes()))
    }

    /// Puts a `text`.
    pub fn text<'a>(&mut self, value: impl Into<Option<&'a str>>) -> &mut Rows {
        self.put(value.into().map(str::as_bytes))
    }

    fn put(&mut self, value: Option<&[u8]>) -> &mut Rows {
        // No event is near the two gigabytes that a field can have.
        let len = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self
    }

    /// Sends the rows with a statement `COPY table (columns) FROM STDIN BINARY`.
    pub async fn send(mut self, connection: &mut PgConnection, statement: &str) -> Result<(), Error> {
        self.bytes.extend((-1_i16).to_be_bytes());
        let mut copy = connection.copy_in_raw(statement).await?;
        for message in self.bytes.chunks(MESSAGE_LEN) {
            copy.send(message).await?;
        }
        copy.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_lengths_and_big_endian_fields() {
        let mut rows = Rows::new(6);
        rows.row().bigint(7).bigint(None).integer(-1).text("ab").uuid(Uuid::from_u128(1)).real(Some(0.5));
        let mut expected = HEAD.to_vec();
        expected.extend([0, 6]);
        expected.extend([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend([255, 255, 255, 255]);
        expected.extend([0, 0, 0, 4, 255, 255, 255, 255]);
        expected.extend([0, 0, 0, 2, b'a', b'b']);
        expected.extend([0, 0, 0, 16]);
        expected.extend(Uuid::from_u128(1).as_bytes());
        expected.extend([0, 0, 0, 4, 0x3f, 0, 0, 0]);
        assert_eq!(rows.bytes, expected);
        assert_eq!(HEAD.len(), 19);
    }
}
