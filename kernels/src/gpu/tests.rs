use super::*;

#[test]
fn a_machine_without_a_driver_is_told_so() {
    match Gpu::open(0) {
        Err(e @ OpenError::NoDriver) => assert!(e.to_string().contains("libcuda.so.1"), "{e}"),
        // Here is a driver; whatever it says is no panic.
        Ok(gpu) => println!("{:?}", gpu.about()),
        Err(e) => println!("{e}"),
    }
}

#[test]
fn a_uuid_is_written_as_everywhere() {
    let bytes = std::array::from_fn(|i| (i * 17) as _);
    assert_eq!(uuid(CUuuid { bytes }), "GPU-00112233-4455-6677-8899-aabbccddeeff");
}

/// What a program does with a device, as far as its types: it is handed to a thread, with its memory.
#[test]
fn a_gpu_can_be_handed_to_a_thread() {
    fn may_be_sent<T: Send>() {}
    may_be_sent::<Gpu>();
    may_be_sent::<crate::memory::Memory<f32>>();
    may_be_sent::<crate::memory::Pinned<f32>>();
}
