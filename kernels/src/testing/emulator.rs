//! The emulator's own tests: what it must compute, and mistakes that it must find.

use super::{Array, Emulator, ORDERS};
use crate::cross_cache::reference::{e4m3_nearest, e4m3_value};
use crate::device::{Arguments, Launch};

/// Runs `kernel(float* out, const float* in)` of a text with blocks of 64 threads in each order; the results, which must be
/// the same or fail the same way: (out, what it failed with).
fn run(body: &str, given: &[f32]) -> Option<Result<Vec<f32>, String>> {
    let text = format!(
        "#include \"device.cuh\"\nKERNEL(kernel, 64, 1, float* out, const float* in) {{\n{body}\n}}\n"
    );
    let mut results = Vec::new();
    for order in ORDERS {
        let emulator = Emulator::new("kernel", &text, order)?;
        let given = Array::new(given);
        let mut out = Array::<f32>::new(&[0.0; 128]);
        let launch = Launch { kernel: "kernel", grid: [2, 1, 1], threads: 64, shared_bytes: 256 };
        let arguments = Arguments::new().write(&out.view_mut()).read(&given.view());
        results.push(emulator.run(&launch, &arguments).map(|()| out.get().to_vec()));
    }
    // Which thread is the first to be found out differs with the order.
    let same =
        |result: &Result<Vec<f32>, String>| *result == results[0] || (result.is_err() && results[0].is_err());
    assert!(results.iter().all(same), "{results:?}");
    Some(results.swap_remove(0))
}

fn check(body: &str, expected: impl Fn(usize) -> f32) {
    let given: Vec<f32> = (0..128).map(|i| i as f32).collect();
    if let Some(result) = run(body, &given) {
        assert_eq!(result, Ok((0..128).map(expected).collect()), "{body}");
    }
}

fn check_fails(body: &str, said: &str) {
    if let Some(result) = run(body, &[1.0; 128]) {
        let failure = result.expect_err("the mistake is found");
        assert!(failure.contains(said), "{failure}\nfor {body}");
    }
}

const THREAD: &str =
    "const unsigned i = threadIdx.x; [[maybe_unused]] const unsigned all = blockIdx.x * 64 + i;\n";

#[test]
fn threads_meet_in_shared_memory() {
    check(
        &format!("{THREAD} SHARED(float, s, 64); s[i] = in[all]; __syncthreads(); out[all] = s[63 - i];"),
        |i| (i / 64 * 64 + 63 - i % 64) as f32,
    );
    check(
        &format!(
            "{THREAD} DYNAMIC_SHARED(float, s, 0, 64); s[i] = in[all]; s[i] += 1; __syncwarp(); out[all] = s[i ^ 1];"
        ),
        |i| (i ^ 1) as f32 + 1.0,
    );
    // Again and again, each way read by others before it is written anew.
    check(
        &format!(
            "{THREAD} SHARED(float, s, 64); float x = in[all];
             for (int turn = 0; turn < 64; turn++) {{
                 s[i] = x; __syncthreads(); x = s[(i + 1) % 64]; __syncthreads();
             }}
             out[all] = x;"
        ),
        |i| i as f32,
    );
}

#[test]
fn lanes_give_each_other_values() {
    check(&format!("{THREAD} out[all] = warp_sum(in[all]);"), |i| {
        (0..32).map(|lane| (i / 32 * 32 + lane) as f32).sum()
    });
    check(&format!("{THREAD} out[all] = __shfl_sync(~0u, in[all], 5);"), |i| (i / 32 * 32 + 5) as f32);
    check(&format!("{THREAD} out[all] = __shfl_up_sync(~0u, in[all], 3);"), |i| {
        (if i % 32 < 3 { i } else { i - 3 }) as f32
    });
    check(&format!("{THREAD} out[all] = __shfl_down_sync(~0u, in[all], 3);"), |i| {
        (if i % 32 > 28 { i } else { i + 3 }) as f32
    });
    check(&format!("{THREAD} out[all] = __ffs(__ballot_sync(~0u, i % 32 >= 7 && all > 40));"), |i| {
        if i < 32 {
            0.0
        } else if i < 64 {
            10.0
        } else {
            8.0
        }
    });
    check(&format!("{THREAD} out[all] = 2 * __any_sync(~0u, all == 40) + __all_sync(~0u, all < 96);"), |i| {
        (2 * u32::from(i / 32 == 1) + u32::from(i < 96)) as f32
    });
    check(&format!("{THREAD} atomicAdd(out + i, in[all]); atomicMax(out + 64 + i, in[all]);"), |i| {
        if i < 64 { (2 * i + 64) as f32 } else { i as f32 }
    });
}

/// The fragments are filled as the manual lays them out, and the product is compared with the definition.
#[test]
fn a_tensor_core_product_is_the_product() {
    for kind in ["f16", "bf16"] {
        check(
            &format!(
                "{THREAD} const unsigned g = i % 32 / 4, c = i % 4;
                 auto a = [](unsigned row, unsigned k) {{ return (float)((row * 3 + k * 5) % 7) - 3; }};
                 auto b = [](unsigned k, unsigned n) {{ return (float)((k * 2 + n) % 5) - 2; }};
                 u32 x[4], y[2]; float sums[4] = {{1, 2, 3, 4}};
                 for (unsigned w = 0; w < 4; w++) {{
                     unsigned row = g + 8 * (w % 2), k = 2 * c + 8 * (w / 2);
                     x[w] = pair_of<{kind}>(a(row, k), a(row, k + 1));
                 }}
                 for (unsigned w = 0; w < 2; w++) y[w] = pair_of<{kind}>(b(2 * c + 8 * w, g), b(2 * c + 8 * w + 1, g));
                 mma<{kind}>(sums, x, y);
                 float wrong = 0;
                 for (unsigned j = 0; j < 4; j++) {{
                     float sum = j + 1;
                     for (unsigned k = 0; k < 16; k++) sum += a(g + 8 * (j / 2), k) * b(k, 2 * c + j % 2);
                     wrong += fabsf(sum - sums[j]);
                 }}
                 out[all] = wrong;"
            ),
            |_| 0.0,
        );
    }
}

#[test]
fn numbers_of_two_bytes_are_rounded_to_the_nearest() {
    let given =
        [1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65_504.0, 1e9, 1e-7, -2.7, f32::NAN, 1.0 + 1.0 / 256.0];
    let given: Vec<f32> = (0..128).map(|i| given[i % given.len()]).collect();
    let body =
        format!("{THREAD} out[all] = blockIdx.x ? to_float(to<bf16>(in[all])) : to_float(to<f16>(in[all]));");
    let text = format!(
        "#include \"device.cuh\"\nKERNEL(kernel, 64, 1, float* out, const float* in) {{\n{body}\n}}\n"
    );
    let Some(emulator) = Emulator::new("kernel", &text, 0) else { return };
    let (numbers, mut out) = (Array::new(&given), Array::<f32>::new(&[0.0; 128]));
    let launch = Launch { kernel: "kernel", grid: [2, 1, 1], threads: 64, shared_bytes: 0 };
    emulator.run(&launch, &Arguments::new().write(&out.view_mut()).read(&numbers.view())).unwrap();
    for (i, (got, given)) in out.get().iter().zip(&given).enumerate() {
        let expected =
            if i < 64 { half::f16::from_f32(*given).to_f32() } else { half::bf16::from_f32(*given).to_f32() };
        assert!(*got == expected || (got.is_nan() && expected.is_nan()), "{given}: {got}, not {expected}");
    }
}

/// Each code of e4m3 by the instruction's twin and by shifts, and numbers that become codes.
#[test]
fn numbers_of_one_byte_are_those_of_their_definition() {
    // A thread takes two codes; both ways are compared there, and the sum of the two is told.
    let widen = "const u32 codes = 2 * all | (2 * all + 1) << 8;
        const u32 pair = widen_pair(codes), by_shifts = widen_pair_by_shifts(codes);
        const float low = to_float(f16{(u16)pair}), high = to_float(f16{(u16)(pair >> 16)});
        const u32 known = high == high ? ~0u : 0xffff;
        out[all] = (pair & known) != (by_shifts & known) ? -1e9f : low + (known == ~0u ? high : 0);";
    check(&format!("{THREAD} {widen}"), |i| {
        let value = |code: usize| e4m3_value(code as u8) as f32;
        value(2 * i) + if value(2 * i + 1).is_nan() { 0.0 } else { value(2 * i + 1) }
    });
    // All codes, and what lies in the middle of two, beside it, beyond the greatest and below the least.
    let mut numbers: Vec<f32> = (0..0x7f).map(|code| e4m3_value(code) as f32).collect();
    numbers.extend((0..0x7e).map(|code| ((e4m3_value(code) + e4m3_value(code + 1)) / 2.0) as f32));
    numbers
        .extend((0..0x7e).map(|code| ((e4m3_value(code) + e4m3_value(code + 1)) / 2.0) as f32 * 1.000_001));
    numbers.extend([464.0, 1e9, f32::INFINITY, 1e-9, 1e-40, 0.000_976_562_6]);
    numbers.extend(numbers.clone().iter().map(|number| -number));
    for numbers in numbers.chunks(128) {
        let mut given = [0.0; 128];
        given[..numbers.len()].copy_from_slice(numbers);
        if let Some(codes) = run(&format!("{THREAD} out[all] = to<e4m3>(in[all]).bits;"), &given) {
            let expected =
                given.map(|number| f32::from(e4m3_nearest(f64::from(number.clamp(-448.0, 448.0)))));
            assert_eq!(codes, Ok(expected.to_vec()), "{given:?}");
        }
    }
    check(&format!("{THREAD} out[all] = to<e4m3>(NAN).bits;"), |_| 127.0);
}

const ARRIVALS: &str = "u32* arrivals = (u32*)(out + 124);";

#[test]
fn blocks_share_a_result() {
    check(
        &format!(
            "{THREAD} {ARRIVALS} SHARED(u32, last, 1);
             const u32 mine = blockIdx.x * 16 + 4 * i;
             if (i < 4) publish16(out + mine, load16(in + mine));
             __syncthreads();
             if (i == 9) last[0] = arrive_last(arrivals, 2);
             __syncthreads();
             if (last[0] && i < 8) store16(out + 32 + 4 * i, published16(out + 4 * i));"
        ),
        |i| if i < 64 { (i % 32) as f32 } else { 0.0 },
    );
}

#[test]
fn what_blocks_share_out_of_turn_is_found() {
    let publish = "if (i < 16) publish16(out + 4 * i, Pack());\n";
    // The thread that arrives may run before others publish, or behind.
    for thread in [0, 15] {
        check_fails(
            &format!("{THREAD} {ARRIVALS} {publish} if (i == {thread}) arrive_last(arrivals, 2);"),
            if thread == 0 { "by a block that has arrived" } else { "with no barrier since thread number 0" },
        );
    }
    check_fails(
        &format!("{THREAD} {publish} __syncthreads(); published16(out + 4 * (i % 16));"),
        "not the last to arrive",
    );
    check_fails(
        &format!(
            "{THREAD} {ARRIVALS} {publish} __syncthreads();
             if (i == 63) arrive_last(arrivals, 1);

             published16(out + 4 * (i % 16));"
        ),
        "no barrier since the block's arrival",
    );
    check_fails(
        &format!(
            "{THREAD} {ARRIVALS} {publish} __syncthreads();
             if (i == 0) arrive_last(arrivals, 1);
             __syncthreads();
             published16(out + 64);"
        ),
        "nobody published",
    );
    check_fails(&format!("{THREAD} {ARRIVALS} if (i < 2) arrive_last(arrivals, 4);"), "arrives twice");
}

/// Two groups of copies, of which the second goes on while the first is read; the last quarter is zeros.
#[test]
fn copies_land_where_they_are_waited_for() {
    check(
        &format!(
            "{THREAD} DYNAMIC_SHARED(float, s, 0, 64);
             const float* mine = in + blockIdx.x * 64;
             if (i < 8) copy16_later<float>(s, 4 * i, mine + 4 * i, true);
             commit_copies();
             if (i < 8) copy16_later<float>(s, 32 + 4 * i, mine + 32 + 4 * i, i < 4);
             commit_copies();
             wait_for_copies<1>(); __syncthreads();
             if (i < 32) out[all] = s[i];
             wait_for_copies<0>(); __syncthreads();
             if (i >= 32) out[all] = s[i];"
        ),
        |i| if i % 64 < 48 { i as f32 } else { 0.0 },
    );
    // A place that is filled again and again, each time behind a barrier.
    check(
        &format!(
            "{THREAD} DYNAMIC_SHARED(float, s, 0, 64);
             float sum = 0;
             for (u32 turn = 0; turn < 4; turn++) {{
                 if (i < 16) copy16_later<float>(s, 4 * i, in + blockIdx.x * 64 + 4 * ((i + turn) % 16), true);
                 commit_copies(); wait_for_copies<0>(); __syncthreads();
                 sum += s[i];
                 __syncthreads();
             }}
             out[all] = sum;"
        ),
        |i| (0..4).map(|turn| (i / 64 * 64 + (i + 4 * turn) % 64) as f32).sum(),
    );
}

#[test]
fn copies_that_nobody_waits_for_are_found() {
    let fails = |then: &str, said: &str| {
        let begin =
            "DYNAMIC_SHARED(float, s, 0, 64); if (i < 16) copy16_later<float>(s, 4 * i, in + 4 * i, true);";
        check_fails(&format!("{THREAD} {begin}\n{then}"), said);
    };
    fails("commit_copies(); __syncthreads(); out[all] = s[i];", "read that a copy under way has yet to fill");
    // Not committed; all but the latest; by threads that began none.
    fails("wait_for_copies<0>(); __syncthreads(); out[all] = s[i];", "read that a copy under way");
    fails(
        "commit_copies(); wait_for_copies<1>(); __syncthreads(); out[all] = s[i];",
        "read that a copy under way",
    );
    fails(
        "commit_copies(); if (i >= 16) wait_for_copies<0>(); __syncthreads(); out[all] = s[i];",
        "read that a copy under way",
    );
    fails("commit_copies(); __syncthreads(); s[i] = 1;", "written that a copy is under way to");
    fails(
        "__syncthreads(); if (i < 4) copy16_later<float>(s, 4 * i, in, false);",
        "written that a copy is under way to",
    );
    fails("commit_copies();", "ends while a copy");
    // Its own copies a thread sees, others behind a barrier only.
    fails("commit_copies(); wait_for_copies<0>(); out[all] = s[i ^ 63];", "");
}

#[test]
fn copies_race_with_what_others_read_and_wrote() {
    let fails = |then: &str, said: &str| {
        check_fails(
            &format!(
                "{THREAD} DYNAMIC_SHARED(float, s, 0, 64);\n{then}\ncommit_copies(); wait_for_copies<0>();"
            ),
            said,
        );
    };
    let copy = "if (i < 16) copy16_later<float>(s, 4 * ((i + 8) % 16), in, true);";
    fails(&format!("s[i] = 1; __syncthreads(); out[all] = s[i]; {copy}"), "");
    fails(&format!("s[i] = 1; {copy}"), "");
    fails("copy16_later<float>(s, 2, in, true);", "misaligned");
    fails("copy16_later<float>(s, 0, in + 1, true);", "misaligned");
    fails("copy16_later<float>(s, 64, in, true);", "outside of its bounds");
}

/// Lanes name rows in an order of their own; rows are 16 numbers apart, and what comes is compared with the manual's layout.
#[test]
fn matrices_are_taken_as_the_manual_lays_them_out() {
    for (take, of) in
        [("load_matrices", "8 * m + g, 2 * c + h"), ("load_matrices_transposed", "8 * m + 2 * c + h, g")]
    {
        check(
            &format!(
                "{THREAD} SHARED(f16, s, 1024); const u32 lane = i % 32, warp = i / 32, g = lane / 4, c = lane % 4;
                 auto number = [&](u32 row, u32 column) {{ return (float)(row * 8 + column + warp * 256); }};
                 const u32 place = (warp * 32 + (lane * 5 + 3) % 32) * 16;
                 for (u32 j = 0; j < 16; j++) s[place + j] = to<f16>(j < 8 ? number(lane, j) : -1);
                 __syncwarp();
                 const Pack pack = {take}<f16>(s, place);
                 float wrong = 0;
                 for (u32 m = 0; m < 4; m++)
                     for (u32 h = 0; h < 2; h++)
                         wrong += fabsf(to_float(f16{{(u16)(pack.words[m] >> 16 * h)}}) - number({of}));
                 out[all] = wrong;"
            ),
            |_| 0.0,
        );
    }
}

#[test]
fn matrices_taken_out_of_turn_are_found() {
    let fails = |then: &str, said: &str| {
        check_fails(&format!("{THREAD} SHARED(f16, s, 512);\n{then}"), said);
    };
    let write = "for (u32 j = 0; j < 8; j++)\ns[8 * i + j] = to<f16>(0);\n";
    // A lane's own row comes to others, which a barrier must let know.
    for take in ["load_matrices", "load_matrices_transposed"] {
        fails(&format!("{write} out[all] = {take}<f16>(s, 8 * i).words[0];"), "a race");
    }
    let ready = format!("{write} __syncthreads();");
    fails(&format!("{ready} load_matrices<f16>(s, 8 * (i % 32)); s[8 * i] = to<f16>(1);"), "a race");
    fails("load_matrices<f16>(s, 8 * i);", "read that nobody wrote");
    fails(&format!("{ready} load_matrices<f16>(s, 8 * (i % 32) + 4);"), "misaligned");
    fails(&format!("{ready} load_matrices<f16>(s, 8 * i + 8);"), "outside of its bounds");
    fails(&format!("{ready} if (i != 3) load_matrices<f16>(s, 8 * i);"), "31 at an operation");
}

#[test]
fn powers_of_two_are_near() {
    let given: Vec<f32> = (0..128).map(|i| (i as f32 - 120.0) * 1.37).collect();
    let Some(powers) = run(&format!("{THREAD} out[all] = fast_exp2(in[all]);"), &given) else { return };
    for (power, given) in powers.unwrap().iter().zip(&given) {
        let expected = if *given < -126.0 { 0.0 } else { f64::from(*given).exp2() };
        assert!((f64::from(*power) - expected).abs() <= 2.5e-7 * expected, "2^{given} is not {power}");
    }
}

#[test]
fn a_missing_barrier_is_found() {
    check_fails(&format!("{THREAD} SHARED(float, s, 64); s[i] = 1; out[all] = s[i ^ 1];"), "");
    check_fails(
        &format!("{THREAD} SHARED(float, s, 64); s[i] = 1; __syncthreads(); out[all] = s[i ^ 1]; s[i] = 2;"),
        "a race",
    );
    check_fails(
        &format!("{THREAD} SHARED(float, s, 64); s[0] = 1; __syncthreads(); out[all] = s[0];"),
        "a race",
    );
    // A barrier of the warp orders no other warp, and a shuffle orders nothing.
    check_fails(
        &format!(
            "{THREAD} SHARED(float, s, 64); s[i] = 1; __syncthreads(); s[i] = 2; __syncwarp(); out[all] = s[i ^ 32];"
        ),
        "a race",
    );
    check_fails(
        &format!(
            "{THREAD} SHARED(float, s, 64); s[i] = 1; __syncthreads(); s[i] = warp_sum(in[all]); out[all] = s[i ^ 1];"
        ),
        "a race",
    );
}

#[test]
fn a_read_of_what_nobody_wrote_is_found() {
    check_fails(
        &format!("{THREAD} SHARED(float, s, 65); s[i] = 1; __syncthreads(); out[all] = s[i + 1];"),
        "read that nobody wrote (byte 256)",
    );
    check_fails(
        &format!("{THREAD} DYNAMIC_SHARED(float, s, 0, 64); out[all] = s[i];"),
        "read that nobody wrote",
    );
}

#[test]
fn shared_memory_has_bounds() {
    check_fails(&format!("{THREAD} SHARED(float, s, 64); s[i + 1] = 1;"), "element 64 of 64");
    check_fails(
        &format!("{THREAD} SHARED(float, s, 64); s[i] = 1; __syncthreads(); out[all] = s[i - 1];"),
        "outside",
    );
    check_fails(
        "DYNAMIC_SHARED(float, s, 0, 65); s[threadIdx.x] = 1;",
        "260 bytes of dynamic shared memory are used",
    );
    check_fails(
        "SHARED(float, s, 64); s[threadIdx.x] = 1; __syncthreads(); shared_load16<float>(s, threadIdx.x == 9 ? 61 : 0);",
        "outside of its bounds: element 64 of 64",
    );
    check_fails(
        "SHARED(float, s, 64); if (threadIdx.x == 3) shared_store16<float>(s, 2, Pack());",
        "misaligned",
    );
    check_fails("if (threadIdx.x == 3) store16(out + 2, load16(in));", "misaligned");
}

#[test]
fn threads_that_part_at_a_barrier_are_found() {
    check_fails("if (threadIdx.x < 40) __syncthreads();", "40 wait at the barrier in line 3");
    check_fails("if (threadIdx.x < 40)\n__syncthreads();\nelse\n__syncthreads();", "different barriers");
    check_fails("if (threadIdx.x != 7) __syncwarp();", "31 at an operation of their warp");
    check_fails(
        "if (threadIdx.x % 2) __syncwarp(); else out[threadIdx.x] = warp_sum(1.0f);",
        "different operations",
    );
    check_fails("out[threadIdx.x] = __shfl_sync(1u, 1.0f, 0);", "whole warps");
}

#[test]
fn launches_are_checked() {
    let text = "#include \"device.cuh\"\nKERNEL(kernel, 64, 1, float* out, u32 n) { out[0] = n; }\n";
    let Some(emulator) = Emulator::new("kernel", text, 0) else { return };
    let mut out = Array::<f32>::new(&[0.0; 4]);
    let launch = Launch { kernel: "kernel", grid: [1, 1, 1], threads: 64, shared_bytes: 0 };
    let arguments = Arguments::new().write(&out.view_mut()).number(5);
    assert_eq!(emulator.run(&launch, &arguments), Ok(()));
    assert_eq!(out.get()[0], 5.0);
    let said = |launch: Launch, arguments: &Arguments| emulator.run(&launch, arguments).unwrap_err();
    assert!(said(Launch { kernel: "other", ..launch }, &arguments).contains("no kernel other"));
    assert!(said(Launch { threads: 96, ..launch }, &arguments).contains("launch bounds"));
    assert!(said(Launch { threads: 33, ..launch }, &arguments).contains("whole warps"));
    assert!(said(launch, &arguments.number(1)).contains("sizes"));
}
