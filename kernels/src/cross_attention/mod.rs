//! A decoder's attention to windows of sound, whose keys and values stand in a [`Cache`].
//!
//! Queries (items, heads · 64) come in groups: a group is 1 to 16 items (beams, candidates, tokens of a prompt) that attend
//! to one slot, and shares one read of its keys and values. mixed (items, heads · 64) becomes the sum of the slot's values
//! up to its length, weighted by the softmax of query · key / 8. Sums are in f32; products of a cache in e4m3 are in f16, so
//! that queries of bf16 must be below 65504 there, as they are by far. A query gives the same bits alone and among others.
//!
//! [`alignment_scores`] gives query · key / 8 of some heads, before the softmax, for the times of words.
//!
//! Every array begins at a multiple of 16 bytes.
//!
//! Bytes: 256 · heads for each position of a group's slot, with e4m3 128: seven to nine tenths of what a decoder's step reads
//! with many texts under way. Each query of the group adds 272 · heads for 128 positions, written and read again in the L2 cache.
//! Operations: 4 · 64 · heads for a position and each of 16 rows, queries or not, on tensor cores: about a tenth of the time
//! that the bytes take on an H100, with e4m3 a fifth. Not measured.

use crate::cross_cache::{Cache, HEAD_WIDTH, Kept};
use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{Half, View, ViewMut};

const OP: &str = "cross-attention";

/// Most queries of a group.
pub const QUERIES_MAX: usize = 16;

/// As in the kernel.
const THREADS: u32 = 128;
const SPLIT: usize = 128;
const RECORD: usize = HEAD_WIDTH + 4;

/// Items that attend to one slot, as the kernel reads it. Items of a launch's groups stand one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// The slot.
    pub slot: u32,
    /// Positions of it that count.
    pub length: u32,
    /// The first item.
    pub first: u32,
    /// Items: 1 to 16.
    pub count: u32,
}

// SAFETY: four numbers of four bytes.
unsafe impl Plain for Group {}

/// What blocks leave for each other. Launches that run one after the other share it.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// What splits leave behind: as many as [`Workspace::lengths`] says.
    pub partials: ViewMut<'a, f32>,
    /// Zeros before the first launch; every launch leaves zeros.
    pub arrivals: ViewMut<'a, u32>,
}

impl Workspace<'_> {
    /// Elements of partials and arrivals for launches of so many items and groups.
    pub fn lengths(items: usize, groups: usize, heads: usize, room: usize) -> (usize, usize) {
        (items * heads * room.div_ceil(SPLIT) * RECORD, groups * heads)
    }
}

/// Mixes. `groups` are what `device_groups` holds on the device: they are checked here and read there. A launch that is recorded
/// and run again is told the greatest lengths that will stand there: blocks of positions that a slot does not have end at once.
pub fn cross_attention<T: Half>(
    device: &mut impl Device,
    queries: &View<'_, T>,
    groups: &[Group],
    device_groups: &View<'_, Group>,
    cache: &Cache<'_, T>,
    workspace: &mut Workspace<'_>,
    mixed: &mut ViewMut<'_, T>,
) -> Result<(), Error> {
    let items = check_groups(queries, groups, device_groups, cache)?;
    let (heads, room) = (cache.heads, cache.room);
    let (partials, arrivals) = Workspace::lengths(items, groups.len(), heads, room);
    let of_workspace = &workspace.partials;
    check_array(OP, "the workspace's partials", (of_workspace.address(), of_workspace.len()), partials)?;
    let of_workspace = &workspace.arrivals;
    check_array(OP, "the workspace's arrivals", (of_workspace.address(), of_workspace.len()), arrivals)?;
    check_array(OP, "mixed", (mixed.address(), mixed.len()), items * heads * HEAD_WIDTH)?;
    if items == 0 {
        return Ok(());
    }
    let kernel = match cache.kept {
        Kept::Whole { .. } => T::pick("cross_attention_f16", "cross_attention_bf16"),
        Kept::Bytes { .. } => T::pick("cross_attention_f16_e4m3", "cross_attention_bf16_e4m3"),
    };
    let [keys, values, scales] = cache.addresses(0);
    let arguments = Arguments::new()
        .read(queries)
        .read(device_groups)
        .address(keys)
        .address(values)
        .address(scales)
        .write(&workspace.partials)
        .write(&workspace.arrivals)
        .write(mixed)
        .number(room);
    // SAFETY: the arguments are the kernel's parameters in order; groups and arrays were checked.
    unsafe { device.launch(&launch(kernel, groups, heads), &arguments) }
}

/// Gives scores (chosen heads, items, columns): the scaled products of each item's query with the keys of its slot, for the
/// heads of `chosen`, which ascend. Columns behind a slot's length are left as they are.
#[expect(
    clippy::too_many_arguments,
    reason = "queries and groups are as above; the rest says what of them is wanted"
)]
pub fn alignment_scores<T: Half>(
    device: &mut impl Device,
    queries: &View<'_, T>,
    groups: &[Group],
    device_groups: &View<'_, Group>,
    cache: &Cache<'_, T>,
    chosen: &[usize],
    scores: &mut ViewMut<'_, f32>,
    columns: usize,
) -> Result<(), Error> {
    let items = check_groups(queries, groups, device_groups, cache)?;
    let heads = cache.heads;
    check(heads <= 32, OP, || format!("{heads} heads; scores are given of layers of up to 32"))?;
    let ascend = chosen.windows(2).all(|two| two[0] < two[1]);
    check(ascend && chosen.iter().all(|head| *head < heads), OP, || {
        format!("the heads {chosen:?} do not ascend within {heads}")
    })?;
    let longest = groups.iter().map(|group| group.length as usize).max().unwrap_or(0);
    check(longest <= columns && u32::try_from(columns).is_ok(), OP, || {
        format!("{columns} columns for {longest} positions")
    })?;
    check_array(OP, "scores", (scores.address(), scores.len()), chosen.len() * items * columns)?;
    if items == 0 || chosen.is_empty() {
        return Ok(());
    }
    let kernel = match cache.kept {
        Kept::Whole { .. } => T::pick("cross_attention_scores_f16", "cross_attention_scores_bf16"),
        Kept::Bytes { .. } => T::pick("cross_attention_scores_f16_e4m3", "cross_attention_scores_bf16_e4m3"),
    };
    let [keys, _, scales] = cache.addresses(0);
    let arguments = Arguments::new()
        .read(queries)
        .read(device_groups)
        .address(keys)
        .address(scales)
        .write(scores)
        .number(cache.room)
        .number(heads)
        .number(chosen.iter().fold(0, |set, head| set | 1 << head))
        .number(items)
        .number(columns);
    // SAFETY: the arguments are the kernel's parameters in order; groups and arrays were checked.
    unsafe { device.launch(&launch(kernel, groups, chosen.len()), &arguments) }
}

/// A block for each split of the longest slot, head and group.
fn launch(kernel: &'static str, groups: &[Group], heads: usize) -> Launch {
    let longest = groups.iter().map(|group| group.length as usize).max().unwrap_or(0);
    Launch {
        kernel,
        grid: [longest.div_ceil(SPLIT) as u32, heads as u32, groups.len() as u32],
        threads: THREADS,
        shared_bytes: 0,
    }
}

/// Refuses groups that the cache or the queries do not have; how many items they are.
fn check_groups<T: Half>(
    queries: &View<'_, T>,
    groups: &[Group],
    device_groups: &View<'_, Group>,
    cache: &Cache<'_, T>,
) -> Result<usize, Error> {
    cache.check(OP)?;
    let mut items = 0;
    for (i, group) in groups.iter().enumerate() {
        let Group { slot, length, first, count } = *group;
        check((slot as usize) < cache.slots && (1..=cache.room).contains(&(length as usize)), OP, || {
            format!(
                "group {i} is {length} positions of slot {slot} of {} slots with room for {}",
                cache.slots, cache.room
            )
        })?;
        check(first as usize == items && (1..=QUERIES_MAX).contains(&(count as usize)), OP, || {
            format!(
                "group {i} has {count} items from {first} on; it takes 1 to {QUERIES_MAX} from {items} on"
            )
        })?;
        items += count as usize;
    }
    check(groups.len() <= 65_535, OP, || format!("{} groups", groups.len()))?;
    let of_device = (device_groups.address(), device_groups.len());
    check_array(OP, "the groups on the device", of_device, groups.len())?;
    check_array(OP, "queries", (queries.address(), queries.len()), items * cache.heads * HEAD_WIDTH)?;
    Ok(items)
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
