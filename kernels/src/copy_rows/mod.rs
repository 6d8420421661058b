//! Rows that become copies of others, as beams do that go on from another one: what is kept of their texts, and their states.
//!
//! All rows are read before any is written, so rows may change places. Copies that touch the same rows stand together in a
//! group of at most 16, which [`groups`] makes.
//!
//! Of keys and values (layers, rows, heads, room, 64), those of one layer as self-attention takes them or those of all
//! layers in one array, the first `positions` of a row are copied: those that its text has. Every array begins at a multiple
//! of 16 bytes.
//!
//! Bytes: 512 · heads a position, copy and layer, half of them written; what several copy is read once and then from the
//! caches.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::sample::RowState;
use crate::self_attention::{Cache, HEAD_WIDTH};
use crate::view::{Half, View, ViewMut};

const OP: &str = "copying of rows";

/// Most copies of a group.
pub const COPIES_MAX: usize = 16;

/// As in the kernel.
const THREADS: u32 = 128;
const STATE_THREADS: u32 = 32;
const POSITIONS: usize = 64;
const _: () = assert!(size_of::<RowState>() == 5 * size_of::<u64>(), "as in the kernel");

/// A row that becomes a copy of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RowCopy {
    /// The other.
    pub from: u32,
    /// The row.
    pub to: u32,
    /// Positions of the other's text.
    pub positions: u32,
}

/// Copies that are made together, as the kernels read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    count: u32,
    copies: [RowCopy; COPIES_MAX],
}

// SAFETY: numbers of four bytes.
unsafe impl Plain for Group {}

impl Group {
    fn copies(&self) -> &[RowCopy] {
        &self.copies[..COPIES_MAX.min(self.count as usize)]
    }
}

/// Sorts copies into groups that have no rows in common. Copies of a row to itself are left out; a row becomes one other.
pub fn groups(copies: &[RowCopy]) -> Result<Vec<Group>, Error> {
    let copies: Vec<&RowCopy> = copies.iter().filter(|copy| copy.from != copy.to).collect();
    let mut sets: Vec<Vec<&RowCopy>> = Vec::new();
    for (i, copy) in copies.iter().enumerate() {
        check(copies[..i].iter().all(|before| before.to != copy.to), OP, || {
            format!("row {} becomes a copy twice", copy.to)
        })?;
        let rows = [copy.from, copy.to];
        let touches = |other: &&RowCopy| rows.contains(&other.from) || rows.contains(&other.to);
        // All sets that the copy touches become one.
        let (joined, apart): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.iter().any(touches));
        sets = apart;
        sets.push(joined.into_iter().flatten().chain([*copy]).collect());
    }
    sets.into_iter()
        .map(|set| {
            check(set.len() <= COPIES_MAX, OP, || {
                format!("{} copies touch the same rows; it takes {COPIES_MAX}", set.len())
            })?;
            let mut group = Group { count: set.len() as u32, copies: [RowCopy::default(); COPIES_MAX] };
            group.copies.iter_mut().zip(set).for_each(|(to, copy)| *to = *copy);
            Ok(group)
        })
        .collect()
}

/// Copies keys and values of `layers` layers, which stand in the cache one behind the other. `groups` are what `device_groups`
/// holds on the device: they are checked here and read there.
pub fn copy_caches<T: Half>(
    device: &mut impl Device,
    groups: &[Group],
    device_groups: &View<'_, Group>,
    cache: &mut Cache<'_, T>,
    (layers, heads): (usize, usize),
) -> Result<(), Error> {
    let Cache { keys, values, rows, room } = cache;
    check_groups(groups, device_groups, *rows)?;
    let blocks = groups.len() * 2 * layers;
    check((1..=65_535).contains(&heads) && layers > 0 && blocks <= 65_535, OP, || {
        format!("{} groups, {layers} layers of {heads} heads", groups.len())
    })?;
    let longest =
        groups.iter().flat_map(Group::copies).map(|copy| copy.positions as usize).max().unwrap_or(0);
    check(longest <= *room && *room <= 1 << 16, OP, || {
        format!("{longest} positions of rows with room for {room}")
    })?;
    let kept = layers * *rows * heads * *room * HEAD_WIDTH;
    check_array(OP, "the cache of keys", (keys.address(), keys.len()), kept)?;
    check_array(OP, "the cache of values", (values.address(), values.len()), kept)?;
    if longest == 0 {
        return Ok(());
    }
    let launch = Launch {
        kernel: "copy_rows_caches",
        grid: [longest.div_ceil(POSITIONS) as u32, heads as u32, blocks as u32],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(device_groups)
        .write(keys)
        .write(values)
        .number(groups.len())
        .number(*rows)
        .number(*room);
    // SAFETY: the arguments are the kernel's parameters in order; groups and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

/// Copies what the sampler knows of rows, and the tokens that they read next.
pub fn copy_states(
    device: &mut impl Device,
    groups: &[Group],
    device_groups: &View<'_, Group>,
    states: &mut ViewMut<'_, RowState>,
    next: &mut ViewMut<'_, u32>,
) -> Result<(), Error> {
    check_groups(groups, device_groups, states.len())?;
    check_array(OP, "the states", (states.address(), states.len()), 0)?;
    check_array(OP, "next", (next.address(), next.len()), states.len())?;
    if groups.is_empty() {
        return Ok(());
    }
    let launch = Launch {
        kernel: "copy_rows_states",
        grid: [groups.len() as u32, 1, 1],
        threads: STATE_THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new().read(device_groups).write(states).write(next);
    // SAFETY: the arguments are the kernel's parameters in order; groups and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

fn check_groups(groups: &[Group], device_groups: &View<'_, Group>, rows: usize) -> Result<(), Error> {
    check(device_groups.len() >= groups.len() && i32::try_from(groups.len().max(rows)).is_ok(), OP, || {
        format!("{} groups of {rows} rows, {} on the device", groups.len(), device_groups.len())
    })?;
    let mut group_of = vec![None; rows];
    for (i, group) in groups.iter().enumerate() {
        check((1..=COPIES_MAX).contains(&(group.count as usize)), OP, || {
            format!("group {i} has {} copies", group.count)
        })?;
        for copy in group.copies() {
            check((copy.from.max(copy.to) as usize) < rows, OP, || {
                format!("row {} becomes row {} of {rows}", copy.to, copy.from)
            })?;
            for row in [copy.from, copy.to] {
                let first = group_of[row as usize].get_or_insert(i);
                check(*first == i, OP, || format!("groups {first} and {i} both have row {row}"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
