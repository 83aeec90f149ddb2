//! Opens any bytes as GGUF and looks at everything in them: errors are fine, panics and floods are not.

#![no_main]

use bitjoule::gguf::{Gguf, I2sLayout, TensorType, Value, i2s_scale, i2s_trits};
use libfuzzer_sys::fuzz_target;

/// Most weights that one tensor is converted to, so that a run stays short.
const MAX_WEIGHTS: usize = 1 << 14;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec(), "fuzzed") else { return };
    assert_eq!(file.file_bytes(), bytes.len() as u64);
    assert!(file.alignment().is_power_of_two());
    for (key, value) in file.metadata() {
        assert!(file.get(key).is_some());
        let _ = (file.req_u32(key), file.req_f32(key), file.req_str(key));
        if let Value::Array(array) = value {
            assert!(array.len() <= bytes.len());
        }
    }
    for tensor in file.tensors() {
        assert!(file.tensor(&tensor.name).is_some());
        let data = file.data(tensor);
        assert_eq!(data.len() as u64, tensor.byte_len().unwrap());
        let (cols, rows) = (tensor.cols() as usize, tensor.rows() as usize);
        // Some of the last rows, where a wrong bound would show.
        let n = rows.min(MAX_WEIGHTS / cols);
        for layout in [I2sLayout::X86_64, I2sLayout::Arm] {
            let mut out = vec![0.0; n * cols];
            let converted = file.dequantize(tensor, rows - n..rows, layout, &mut out);
            if tensor.ty == TensorType::I2S {
                let mut trits = vec![0; n * cols];
                let unpacked = i2s_trits(data, cols, rows - n..rows, layout, &mut trits);
                let scale = i2s_scale(data, tensor.elements() as usize);
                assert_eq!(converted.is_ok(), unpacked.is_ok() && scale.is_ok());
                if let Ok(scale) = scale
                    && converted.is_ok()
                {
                    assert!(out.iter().zip(trits).all(|(w, t)| *w == scale * f32::from(t)));
                }
            }
        }
    }
});
