//! As much of ONNX as it takes to find a tensor of weights: the file is one message of protocol buffers
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).

use anyhow::{Context, Result, bail, ensure};

/// `ModelProto.graph`, `GraphProto.initializer`, and the fields of `TensorProto`.
const GRAPH: u64 = 7;
const INITIALIZER: u64 = 5;
const DIMS: u64 = 1;
const DATA_TYPE: u64 = 2;
const NAME: u64 = 8;
const RAW_DATA: u64 = 9;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;

/// Weights as they lie in the file.
#[derive(Debug, PartialEq)]
pub struct Tensor<'a> {
    pub shape: Vec<u64>,
    /// Little-endian f32.
    pub floats: &'a [u8],
}

/// Finds the initial value `name` of a network's graph.
pub fn tensor<'a>(network: &'a [u8], name: &str) -> Result<Tensor<'a>> {
    for graph in fields(network)?.into_iter().filter(|field| field.number == GRAPH) {
        for initializer in fields(graph.bytes)?.into_iter().filter(|field| field.number == INITIALIZER) {
            let parts = fields(initializer.bytes)?;
            let bytes = |number| parts.iter().find(|part| part.number == number).map(|part| part.bytes);
            if bytes(NAME) != Some(name.as_bytes()) {
                continue;
            }
            let numbers = |number| parts.iter().filter(move |part| part.number == number);
            ensure!(numbers(DATA_TYPE).all(|part| part.value == FLOAT), "{name} does not hold f32");
            let mut shape = Vec::new();
            for part in numbers(DIMS) {
                // One by one, or several packed in bytes.
                let mut packed = part.bytes;
                if packed.is_empty() {
                    shape.push(part.value);
                }
                while !packed.is_empty() {
                    shape.push(varint(&mut packed)?);
                }
            }
            let floats = bytes(RAW_DATA).with_context(|| format!("find the numbers of {name}"))?;
            ensure!(floats.len() as u64 == shape.iter().product::<u64>() * 4, "{name} is not whole");
            return Ok(Tensor { shape, floats });
        }
    }
    bail!("the network has no tensor {name}")
}

/// A field of a message: its number with either a whole number or bytes.
struct Field<'a> {
    number: u64,
    value: u64,
    bytes: &'a [u8],
}

fn fields(mut message: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let (mut value, mut bytes) = (0, &message[..0]);
        match tag & 7 {
            0 => value = varint(&mut message)?,
            1 => bytes = take(&mut message, 8)?,
            2 => {
                let length = varint(&mut message)?;
                bytes = take(&mut message, length)?;
            }
            5 => bytes = take(&mut message, 4)?,
            other => bail!("a field of kind {other} is none of a network"),
        }
        fields.push(Field { number: tag >> 3, value, bytes });
    }
    Ok(fields)
}

fn varint(message: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for place in 0..10 {
        let byte = take(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("a number has no end")
}

fn take<'a>(message: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (taken, rest) = message.split_at_checked(length).context("the file breaks off")?;
    *message = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn a_tensor_is_found_by_its_name() {
        let floats: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let one_by_one = [&[8, 2, 8, 1, 16, 1], &*field(8, b"a"), &field(9, &floats)].concat();
        let packed = [&field(1, &[1, 2]), &[16, 1][..], &field(8, b"b"), &field(9, &floats)].concat();
        let halves = [&[8, 4, 16, 10], &*field(8, b"c"), &field(9, &floats)].concat();
        let short = [&[8, 3, 16, 1], &*field(8, b"d"), &field(9, &floats)].concat();
        let graph: Vec<u8> =
            [one_by_one, packed, halves, short].iter().flat_map(|tensor| field(5, tensor)).collect();
        let network = [&[8, 200, 1], &*field(2, b"maker"), &field(7, &graph)].concat();
        assert_eq!(tensor(&network, "a").unwrap(), Tensor { shape: vec![2, 1], floats: &floats });
        assert_eq!(tensor(&network, "b").unwrap().shape, [1, 2]);
        for missing in ["c", "d", "e"] {
            assert!(tensor(&network, missing).is_err(), "{missing}");
        }
        assert!(tensor(&network[..network.len() - 1], "a").is_err());
        assert!(tensor(&[0xff; 12], "a").is_err());
    }
}
