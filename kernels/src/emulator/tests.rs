//! Memory, copies and graphs of the emulated device: what holds here must hold of any [`Accelerator`].

use half::f16;

use super::Emulator;
use crate::accelerator::{Accelerator, GraphKey};
use crate::device::{Arguments, Device, Error, Launch};
use crate::layer_norm::{Norm, layer_norm};
use crate::memory::Memory;

const KEY: GraphKey = GraphKey { name: "norms", numbers: [4, 0, 0, 0] };

fn downloaded(device: &mut impl Accelerator, memory: &Memory<f32>) -> Vec<f32> {
    let mut values = vec![0.0; memory.len()];
    device.download(&memory.view(), &mut values).unwrap();
    values
}

#[test]
fn values_go_there_and_come_back() {
    let Some(mut device) = Emulator::open(0) else { return };
    let numbers: Vec<f32> = (0..100u8).map(f32::from).collect();
    let mut stored = device.stored(&numbers).unwrap();
    let mut other = device.zeroed::<f32>(100).unwrap();
    assert_eq!(downloaded(&mut device, &other), [0.0; 100]);
    device.copy(&stored.view().part(40..44).unwrap(), &mut other.view_mut().part_mut(1..5).unwrap()).unwrap();
    device.clear(&mut stored.view_mut().part_mut(0..50).unwrap()).unwrap();
    assert_eq!(downloaded(&mut device, &other)[..6], [0.0, 40.0, 41.0, 42.0, 43.0, 0.0]);
    assert_eq!(downloaded(&mut device, &stored)[48..52], [0.0, 0.0, 50.0, 51.0]);
    let poison = device.uninitialised::<f32>(3).unwrap();
    assert!(downloaded(&mut device, &poison).iter().all(|x| x.is_nan()), "what nobody wrote is no number");
    let nothing = device.stored::<f32>(&[]).unwrap();
    assert_eq!(downloaded(&mut device, &nothing), [0.0; 0]);
}

#[test]
fn pinned_memory_carries_the_first_elements() {
    let Some(mut device) = Emulator::open(0) else { return };
    let mut pinned = device.pinned::<u32>(8).unwrap();
    assert_eq!(pinned.get().unwrap(), [0; 8]);
    pinned.get_mut().unwrap()[..4].copy_from_slice(&[1, 2, 3, 4]);
    let mut there = device.zeroed::<u32>(3).unwrap();
    device.upload_later(&mut pinned, &mut there.view_mut()).unwrap();
    pinned.get_mut().unwrap().fill(9);
    device.download_later(&there.view(), &mut pinned).unwrap();
    assert_eq!(pinned.get().unwrap(), [1, 2, 3, 9, 9, 9, 9, 9]);
    let long = device.zeroed::<u32>(9).unwrap();
    let refused = device.download_later(&long.view(), &mut pinned).unwrap_err();
    assert!(refused.to_string().contains("9 elements and 8 of pinned memory"), "{refused}");
}

#[test]
fn lengths_and_parts_are_checked() {
    let Some(mut device) = Emulator::open(0) else { return };
    let mut memory = device.zeroed::<f32>(8).unwrap();
    let said = |refused: Result<(), Error>| refused.unwrap_err().to_string();
    assert!(said(device.upload(&[0.0; 7], &mut memory.view_mut())).contains("7 elements to an array of 8"));
    assert!(said(device.download(&memory.view(), &mut [0.0; 9])).contains("8 elements to an array of 9"));
    assert!(said(memory.view().part(3..9).map(|_| ())).contains("elements 3 to 9 of 8"));
    #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
    let backwards = memory.view_mut().part_mut(5..4).map(|_| ());
    assert!(said(backwards).contains("elements 5 to 4 of 8"));
    assert!(memory.view().part(8..8).unwrap().is_empty());
    assert!(said(device.zeroed::<f32>(usize::MAX).map(|_| ())).contains("allocation"));
}

#[test]
fn memory_runs_out_and_comes_back() {
    let Some(device) = Emulator::open(0) else { return };
    let mut device = device.with_room(100);
    let first = device.zeroed::<u8>(60).unwrap();
    assert_eq!(device.room(), Ok(40));
    assert_eq!(device.zeroed::<u8>(41).unwrap_err(), Error::Room { needed: 41, free: 40 });
    drop(first);
    assert_eq!(device.room(), Ok(100));
}

/// Arrays that a graph works on: rows, factors, terms and results.
struct Norms {
    x: Memory<f32>,
    gamma: Memory<f32>,
    beta: Memory<f32>,
    y: Memory<f16>,
}

impl Norms {
    fn new(device: &mut Emulator) -> Norms {
        Norms {
            x: device.stored(&[1.0, -1.0, 3.0, -3.0]).unwrap(),
            gamma: device.stored(&[1.0; 4]).unwrap(),
            beta: device.zeroed(4).unwrap(),
            y: device.zeroed(4).unwrap(),
        }
    }

    fn run(&mut self, device: &mut Emulator) -> Result<(), Error> {
        let norm = Norm { gamma: self.gamma.view(), beta: self.beta.view() };
        layer_norm(device, &mut self.x.view_mut(), None, norm, &mut self.y.view_mut(), 4)
    }
}

#[test]
fn a_graph_repeats_its_work_on_what_the_arrays_hold() {
    for replays in [false, true] {
        let Some(mut device) = Emulator::open(0) else { return };
        if replays {
            device = device.with_replays();
        }
        let mut norms = Norms::new(&mut device);
        let mut calls = 0;
        for beta in [0.0, 1.0, 2.0] {
            device.upload(&[beta; 4], &mut norms.beta.view_mut()).unwrap();
            device.clear(&mut norms.y.view_mut()).unwrap();
            let work = |device: &mut Emulator| {
                calls += 1;
                norms.run(device)
            };
            device.graph(KEY, work).unwrap();
            let mut y = [f16::ZERO; 4];
            device.download(&norms.y.view(), &mut y).unwrap();
            assert!((y[0].to_f32() - (beta + 0.447_2)).abs() < 2e-3, "{y:?}");
        }
        assert_eq!(calls, if replays { 1 } else { 3 });
    }
}

#[test]
fn a_graph_whose_work_changed_is_found() {
    let Some(mut device) = Emulator::open(0) else { return };
    let (mut norms, mut others) = (Norms::new(&mut device), Norms::new(&mut device));
    let two = |device: &mut Emulator, norms: &mut Norms| {
        norms.run(device)?;
        device.clear(&mut norms.x.view_mut())
    };
    device.graph(KEY, |device| two(device, &mut norms)).unwrap();
    device.graph(KEY, |device| two(device, &mut norms)).unwrap();
    // Another array of the same shape, another step, a step less: a replay would have been of the first.
    let refused = device.graph(KEY, |device| two(device, &mut others)).unwrap_err();
    assert!(refused.to_string().contains("step 0"), "{refused}");
    let refused = device.graph(KEY, |device| norms.run(device)).unwrap_err();
    assert!(refused.to_string().contains("step 1 is None"), "{refused}");
    let other_key = GraphKey { numbers: [5, 0, 0, 0], ..KEY };
    device.graph(other_key, |device| norms.run(device)).unwrap();
    // Memory is given back, so everything is recorded anew.
    drop(norms);
    device.graph(KEY, |device| two(device, &mut others)).unwrap();
}

#[test]
fn a_graph_neither_allocates_nor_waits() {
    let Some(mut device) = Emulator::open(0) else { return };
    let mut memory = device.zeroed::<u8>(16).unwrap();
    let mut pinned = device.pinned::<u8>(16).unwrap();
    let mut refuse = |work: &mut dyn FnMut(&mut Emulator) -> Result<(), Error>| {
        let refused = device.graph(KEY, work).unwrap_err();
        assert!(refused.to_string().contains("inside of a graph"), "{refused}");
    };
    refuse(&mut |device| device.synchronize());
    refuse(&mut |device| device.zeroed::<u8>(1).map(|_| ()));
    refuse(&mut |device| device.pinned::<u8>(1).map(|_| ()));
    refuse(&mut |device| device.upload(&[0; 16], &mut memory.view_mut()));
    refuse(&mut |device| device.download(&memory.view(), &mut [0; 16]));
    refuse(&mut |device| device.upload_later(&mut pinned, &mut memory.view_mut()));
    refuse(&mut |device| device.download_later(&memory.view(), &mut pinned));
    // What failed left nothing behind, and a graph in a graph is part of it.
    let clear = |device: &mut Emulator| device.graph(KEY, |device| device.clear(&mut memory.view_mut()));
    device.graph(GraphKey { name: "outer", ..KEY }, clear).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn a_kernel_that_no_op_has_is_refused() {
    let Some(mut device) = Emulator::open(0) else { return };
    let launch = Launch { kernel: "unheard_of", grid: [1, 1, 1], threads: 32, shared_bytes: 0 };
    // SAFETY: nothing is launched.
    let refused = unsafe { device.launch(&launch, &Arguments::new()) };
    assert!(refused.unwrap_err().to_string().contains("unheard_of: no op"));
}
