//! `kernels::gpu` against a driver that pretends (`driver/driver.cpp`): what is asked of the driver, in which order, what is waited
//! for, and what is left behind. What a GPU really does is not seen here.
#![cfg(feature = "gpu")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use half::f16;
use kernels::accelerator::{Accelerator, GraphKey};
use kernels::device::{Arguments, Device, Error, Launch};
use kernels::gpu::{Gpu, OpenError, Origin, Setup};
use kernels::layer_norm::{Norm, layer_norm};
use kernels::memory::Memory;

/// Names what a child of this program does, which has the pretended driver in front of any other.
const CHILD: &str = "VOICEFORGE_TEST_DRIVER_CHILD";

/// Runs `child` in a process of its own with this driver; what it said. None where there is no C++ compiler.
fn run(what: &str, settings: &[(&str, &str)]) -> Option<String> {
    let folder = driver()?;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(CHILD, what).env("LD_LIBRARY_PATH", folder);
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(!said.contains("mistake:"), "{said}");
    Some(said)
}

/// The folder of the driver's library, compiled once.
fn driver() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/driver.cpp");
        let library = folder.path().join("libcuda.so");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror"]);
        let Ok(output) = command.arg(source).arg("-o").arg(&library).output() else {
            eprintln!("skipped: no C++ compiler (install g++, or name one in CXX)");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::copy(&library, folder.path().join("libnvrtc.so.13")).unwrap();
        Some(folder)
    });
    folder.as_ref().map(|folder| folder.path())
}

#[test]
fn child() {
    match std::env::var(CHILD).as_deref() {
        Ok("open") => match Gpu::open_with(0, &Setup { bytes_needed: 1 << 29, ..Setup::default() }) {
            Ok(gpu) => println!("opened {}", gpu.about().name),
            Err(e) => println!("refused: {e}"),
        },
        Ok("refusals") => refusals(),
        Ok("kernels") => kernels_are_kept(),
        Ok("work") => work(),
        Ok("lost") => lost(),
        _ => {}
    }
}

#[test]
fn what_is_missing_is_told() {
    for (settings, said) in [
        (&[][..], "opened Pretended 100"),
        (&[("DRIVER_VERSION", "12080")], "refused: NVIDIA's driver is for CUDA 12.8, and 13.0 is needed"),
        (&[("DRIVER_FAILS", "cuInit=100")], "refused: NVIDIA's driver shows no GPU"),
        (&[("DRIVER_FAILS", "cuInit=803")], "restart the machine"),
        (&[("DRIVER_DEVICES", "0")], "refused: NVIDIA's driver shows no GPU"),
        (&[("DRIVER_CAPABILITY", "75")], "Pretended 100 has compute capability 7.5, and 8.0 is needed"),
        (&[("DRIVER_CAPABILITY", "120")], "no kernels for sm_120, and NVRTC 13.0 does not know it"),
        (
            &[("DRIVER_FAILS", "cuDevicePrimaryCtxRetain=46")],
            "open the GPU: NVIDIA's driver says CUDA_ERROR_DEVICE_UNAVAILABLE (46): another process",
        ),
        (&[("DRIVER_FAILS", "cuModuleLoadData=209")], "load the kernels: NVIDIA's driver says"),
    ] {
        let Some(got) = run("open", settings) else { return };
        assert!(got.contains(said), "{got}");
    }
    run("refusals", &[]);
}

fn refusals() {
    let refused = |ordinal, setup| Gpu::open_with(ordinal, &setup).err().unwrap();
    assert_eq!(refused(2, Setup::default()), OpenError::NoSuchDevice { ordinal: 2, count: 2 });
    let setup = Setup { bytes_needed: 2 << 30, ..Setup::default() };
    assert_eq!(refused(0, setup), OpenError::Memory { needed: 2 << 30, free: 1 << 30 });
    let setup = Setup { compiler: Some("/nowhere".into()), ..Setup::default() };
    let missing = refused(0, setup);
    let OpenError::NoCompiler { architecture, reason } = missing else { panic!("{missing}") };
    assert!(architecture == "sm_90a" && reason.contains("/nowhere"), "{reason}");
}

#[test]
fn kernels_are_compiled_once() {
    run("kernels", &[]);
}

fn kernels_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { cache: Some(folder.path().to_owned()), ..Setup::default() };
    let origins =
        |gpu: Gpu| -> Vec<Origin> { gpu.about().kernels.iter().map(|(_, origin)| origin.clone()).collect() };
    let first = origins(Gpu::open_with(0, &setup).unwrap());
    assert!(first.iter().all(|origin| *origin == Origin::Compiled(None)), "{first:?}");
    let second = origins(Gpu::open_with(1, &setup).unwrap());
    assert!(second.iter().all(|origin| *origin == Origin::Kept), "{second:?}");
}

#[test]
fn a_device_does_what_it_is_asked_for() {
    run("work", &[]);
}

fn work() {
    let mut gpu = Gpu::open(1).unwrap();
    let about = gpu.about();
    assert_eq!(about.name, "Pretended 101");
    assert_eq!(about.uuid, "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert_eq!((about.capability.to_string(), about.driver.to_string()), ("9.0".into(), "13.0".into()));
    assert_eq!((about.multiprocessors, about.shared_bytes, about.memory), (132, 227 << 10, 1 << 30));
    // The rest on another thread, as an engine does it.
    std::thread::spawn(move || {
        values(&mut gpu);
        pinned(&mut gpu);
        room(&mut gpu);
        launches(&mut gpu);
        let mut survivor = graphs(&mut gpu);
        let (from, to) = (gpu.mark().unwrap(), gpu.mark().unwrap());
        assert_eq!(from.until(&to), Ok(Duration::from_micros(1_500)));
        // It waits for what is under way, and memory may outlive it.
        gpu.clear(&mut survivor.view_mut()).unwrap();
        drop(gpu);
        drop(survivor);
    })
    .join()
    .unwrap();
}

fn values(gpu: &mut Gpu) {
    let numbers: Vec<f32> = (0..100u8).map(f32::from).collect();
    let mut stored = gpu.stored(&numbers).unwrap();
    let mut other = gpu.zeroed::<f32>(100).unwrap();
    gpu.copy(&stored.view().part(40..44).unwrap(), &mut other.view_mut().part_mut(1..5).unwrap()).unwrap();
    gpu.clear(&mut stored.view_mut().part_mut(0..50).unwrap()).unwrap();
    let mut values = vec![1.0; 100];
    gpu.download(&other.view(), &mut values).unwrap();
    assert_eq!(values[..6], [0.0, 40.0, 41.0, 42.0, 43.0, 0.0]);
    gpu.download(&stored.view(), &mut values).unwrap();
    assert_eq!(values[48..52], [0.0, 0.0, 50.0, 51.0]);
    let mut nothing = gpu.stored::<f32>(&[]).unwrap();
    gpu.download(&nothing.view(), &mut []).unwrap();
    gpu.clear(&mut nothing.view_mut()).unwrap();
}

fn pinned(gpu: &mut Gpu) {
    let mut pinned = gpu.pinned::<u32>(8).unwrap();
    assert_eq!(pinned.get().unwrap(), [0; 8]);
    pinned.get_mut().unwrap()[..4].copy_from_slice(&[1, 2, 3, 4]);
    let mut there = gpu.zeroed::<u32>(3).unwrap();
    gpu.upload_later(&mut pinned, &mut there.view_mut()).unwrap();
    // The copy is done before this changes what it copies.
    pinned.get_mut().unwrap().fill(9);
    gpu.download_later(&there.view(), &mut pinned).unwrap();
    assert_eq!(pinned.get().unwrap(), [1, 2, 3, 9, 9, 9, 9, 9]);
    // Dropped with a copy under way.
    gpu.download_later(&there.view(), &mut pinned).unwrap();
}

fn room(gpu: &mut Gpu) {
    assert_eq!(gpu.room(), Ok(1 << 30), "what was dropped is free");
    let memory = gpu.uninitialised::<u8>(1_000).unwrap();
    assert_eq!(gpu.room(), Ok((1 << 30) - 1_000));
    let refused = gpu.uninitialised::<u8>(1 << 30).unwrap_err();
    assert_eq!(refused, Error::Room { needed: 1 << 30, free: (1 << 30) - 1_000 });
    drop(memory);
    drop(gpu.uninitialised::<u8>(1 << 30).unwrap());
    gpu.synchronize().unwrap();
    assert_eq!(gpu.room(), Ok(1 << 30));
}

/// The pretended kernels add 1 to the first value of the first array.
fn launches(gpu: &mut Gpu) {
    let mut counted = gpu.zeroed::<f32>(1).unwrap();
    let arguments = Arguments::new().write(&counted.view_mut());
    let mut launch = |kernel, shared_bytes| {
        // SAFETY: the array is there until it is downloaded.
        unsafe { gpu.launch(&Launch { kernel, grid: [1, 1, 1], threads: 32, shared_bytes }, &arguments) }
    };
    for shared_bytes in [0, 48 << 10, 100 << 10, 227 << 10, 8] {
        launch("skinny_8_f16", shared_bytes).unwrap();
    }
    let refused = launch("skinny_8_f16", 228 << 10).unwrap_err();
    assert_eq!(refused.to_string(), "skinny_8_f16: CUDA_ERROR_INVALID_VALUE (1)");
    let refused = launch("unheard_of", 0).unwrap_err();
    assert_eq!(refused.to_string(), "unheard_of: no op has a kernel of this name");
    let mut value = [0.0];
    gpu.download(&counted.view(), &mut value).unwrap();
    assert_eq!(value, [5.0]);
}

fn graphs(gpu: &mut Gpu) -> Memory<f32> {
    let key = GraphKey { name: "norm", numbers: [1, 0, 0, 0] };
    let mut x = gpu.zeroed::<f32>(4).unwrap();
    let mut y = gpu.zeroed::<f16>(4).unwrap();
    let (ones, dropped) = (gpu.stored(&[1.0f32; 4]).unwrap(), gpu.zeroed::<f32>(4).unwrap());
    let mut calls = 0;
    let mut step = |gpu: &mut Gpu| {
        let work = |gpu: &mut Gpu| -> Result<(), Error> {
            calls += 1;
            let norm = Norm { gamma: ones.view(), beta: ones.view() };
            layer_norm(gpu, &mut x.view_mut(), None, norm, &mut y.view_mut(), 4)?;
            // Part of the same graph.
            gpu.graph(key, |gpu| layer_norm(gpu, &mut x.view_mut(), None, norm, &mut y.view_mut(), 4))
        };
        gpu.graph(key, work).unwrap();
        let mut values = [0.0; 4];
        gpu.download(&x.view(), &mut values).unwrap();
        (values[0], calls)
    };
    // Done, recorded, replayed; each time once.
    assert_eq!(step(gpu), (2.0, 1));
    assert_eq!(step(gpu), (4.0, 2));
    assert_eq!(step(gpu), (6.0, 2));
    assert_eq!(step(gpu), (8.0, 2));
    // Memory is given back, so everything is recorded anew.
    drop(dropped);
    assert_eq!(step(gpu), (10.0, 3));
    assert_eq!(step(gpu), (12.0, 4));
    assert_eq!(step(gpu), (14.0, 4));

    let mut memory = gpu.zeroed::<u8>(16).unwrap();
    let mut pinned = gpu.pinned::<u8>(16).unwrap();
    let other = GraphKey { name: "other", ..key };
    for _ in 0..2 {
        let mut refuse = |work: &mut dyn FnMut(&mut Gpu) -> Result<(), Error>| {
            let refused = gpu.graph(other, work).unwrap_err();
            assert!(refused.to_string().contains("inside of a graph"), "{refused}");
        };
        refuse(&mut |gpu| gpu.synchronize());
        refuse(&mut |gpu| gpu.room().map(|_| ()));
        refuse(&mut |gpu| gpu.mark().map(|_| ()));
        refuse(&mut |gpu| gpu.zeroed::<u8>(1).map(|_| ()));
        refuse(&mut |gpu| gpu.pinned::<u8>(1).map(|_| ()));
        refuse(&mut |gpu| gpu.upload(&[0; 16], &mut memory.view_mut()));
        refuse(&mut |gpu| gpu.download(&memory.view(), &mut [0; 16]));
        refuse(&mut |gpu| gpu.upload_later(&mut pinned, &mut memory.view_mut()));
        refuse(&mut |gpu| gpu.download_later(&memory.view(), &mut pinned));
        // The second time around it is recorded; a drop meanwhile disturbs nothing.
        gpu.graph(other, |gpu| gpu.clear(&mut memory.view_mut())).unwrap();
    }
    let mut early = Some(gpu.zeroed::<u8>(1).unwrap());
    let third = GraphKey { name: "third", ..key };
    gpu.graph(third, |gpu| gpu.clear(&mut memory.view_mut())).unwrap();
    let dropping = |gpu: &mut Gpu| {
        drop(early.take());
        gpu.clear(&mut memory.view_mut())
    };
    gpu.graph(third, dropping).unwrap();
    x
}

#[test]
fn a_lost_device_says_so_from_then_on() {
    run("lost", &[("DRIVER_BREAKS", "700")]);
}

fn lost() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut memory = gpu.zeroed::<f32>(4).unwrap();
    let launch = Launch { kernel: "sample", grid: [1, 1, 1], threads: 32, shared_bytes: 0 };
    // SAFETY: nothing is launched that touches anything.
    unsafe { gpu.launch(&launch, &Arguments::new().write(&memory.view_mut())) }.unwrap();
    let error = gpu.synchronize().unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert!(error.to_string().starts_with("wait: CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
    assert!(gpu.zeroed::<f32>(1).unwrap_err().is_lost());
    assert!(gpu.download(&memory.view(), &mut [0.0; 4]).unwrap_err().is_lost());
}
