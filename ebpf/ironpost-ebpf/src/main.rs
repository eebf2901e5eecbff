#![no_std]
#![no_main]
//! `ironpost_xdp`: drops frames of blocked sources, counts every frame under exactly one reason, reports samples.
//!
//! The way of a frame: parse → verdict by source address → account → emit. The allow list wins over every block. What
//! cannot be parsed passes and is counted: the filter never stands between an operator and the host.

mod account;
mod emit;
mod maps;
mod parse;
mod verdict;

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_xdp_get_buff_len, macros::xdp, programs::XdpContext,
};
use ironpost_ebpf_common::{kind, reason, slot};
use parse::Frame;

/// Dual licence: the kernel lets only GPL-compatible programs use its helpers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Decides about one frame.
#[xdp(frags)]
pub fn ironpost_xdp(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    let network = match frame.network() {
        Ok(network) => network,
        Err(unparsed) => {
            account::count(slot::OTHER, whole_length(&context), unparsed);
            return xdp_action::XDP_PASS;
        }
    };
    let verdict = verdict::decide(&network.source);
    let transport = frame.transport(&network);
    let length = frame.length(&transport).unwrap_or_else(|| whole_length(&context));
    let protocol_slot = parse::slot_of(network.version, transport.protocol);

    if reason::dropped(verdict.reason) {
        account::count(protocol_slot, length, verdict.reason);
        emit::sampled(&context, kind::DROP, verdict.rule_id, length);
        return xdp_action::XDP_DROP;
    }
    let mut counted = verdict.reason;
    if counted == reason::MONITORED {
        emit::sampled(&context, kind::MONITOR, verdict.rule_id, length);
    } else if counted != reason::ALLOWED {
        match frame.ports(&transport) {
            Ok(Some(ports)) => emit::new_port(&context, &network, &transport, &ports, length),
            Ok(None) => {}
            Err(noted) if counted == reason::PASS => counted = noted,
            Err(_) => {}
        }
    }
    account::count(protocol_slot, length, counted);
    xdp_action::XDP_PASS
}

/// Bytes of the frame over all its buffers.
#[inline(always)]
fn whole_length(context: &XdpContext) -> u64 {
    // SAFETY: the helper takes the context this program was called with.
    unsafe { bpf_xdp_get_buff_len(context.ctx) }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_information: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
