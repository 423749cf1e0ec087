use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::io::driver::UdpOptions;
use crate::io::udp;

fn bound(ip: IpAddr) -> (Socket, SocketAddr, bool) {
    let options = UdpOptions {
        receive_buffer: Some(1 << 20),
        ..UdpOptions::default()
    };
    let (socket, segments) = udp::bind(SocketAddr::new(ip, 0), options).expect("binds");
    let addr = socket.local_addr().expect("bound").as_socket();
    (socket, addr.expect("an IP address"), segments)
}

/// Receives all that is there: loopback delivers within the send.
fn receive_all(datagrams: &mut Datagrams, socket: &Socket) -> Vec<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 65536]);
    let mut receive = |all: &mut Vec<Vec<u8>>| {
        datagrams.receive(socket, &mut buffer, &mut |datagram| {
            all.push(datagram.data.to_vec())
        })
    };
    while receive(&mut all).is_ok() {}
    all
}

/// A kernel that cannot segment for a socket says so only when it is to send: here because of switched-off checksums.
#[test]
fn a_path_without_segmentation_gets_single_datagrams() {
    let mut datagrams = Datagrams::new();
    let (receiver, to, _) = bound(Ipv4Addr::LOCALHOST.into());
    let (sender, _, mut segments) = bound(Ipv4Addr::LOCALHOST.into());
    if !segments {
        return eprintln!("skipped: this kernel never segments");
    }
    let data: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    let run = Transmit {
        segment_size: Some(1000),
        ..Transmit::new(to, &data)
    };
    let single = Transmit::new(to, b"single");
    for without_checksums in [0, 1] {
        let fd = sender.as_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, &without_checksums).expect("set");
        let transmits = [single, run, single, run];
        let sent = datagrams.send(&sender, false, &mut segments, &transmits);
        assert_eq!(sent.expect("sends"), 4);
        let received = receive_all(&mut datagrams, &receiver);
        assert_eq!(received.len(), 22);
        assert_eq!(received[1..11].concat(), data);
        assert_eq!(received[12..22].concat(), data);
        assert!(segments, "one refusal says nothing of the next path");
    }
}

#[test]
fn memory_for_large_datagrams_goes_when_idle() {
    let mut datagrams = Datagrams::new();
    let (receiver, to, _) = bound(Ipv6Addr::LOCALHOST.into());
    let (sender, _, mut segments) = bound(Ipv6Addr::LOCALHOST.into());
    for data in [vec![1; 100], vec![2; 60_000]] {
        let transmit = Transmit::new(to, &data);
        datagrams
            .send(&sender, true, &mut segments, &[transmit])
            .expect("sends");
        assert_eq!(receive_all(&mut datagrams, &receiver), [data]);
    }
    assert!(datagrams.is_spill_used);
    datagrams.release();
    assert_eq!(datagrams.spill.capacity(), 0);
}

#[test]
fn congestion_bits_are_those_of_rfc_3168() {
    for (ecn, bits) in [
        (Ecn::NotEct, 0),
        (Ecn::Ect1, 1),
        (Ecn::Ect0, 2),
        (Ecn::Ce, 3),
    ] {
        assert_eq!(ecn_bits(ecn), bits);
        assert_eq!(
            ecn_from_bits(0b1011_1000 | bits),
            ecn,
            "the other six bits are another matter"
        );
    }
}

#[test]
fn addresses_survive_the_way_through_the_kernels_form() {
    let mut name: Name = empty_name();
    for text in ["192.0.2.1:65535", "[2001:db8::1]:1", "[fe80::1%7]:53"] {
        let addr: SocketAddr = text.parse().expect("an address");
        let len = name.encode(addr);
        // SAFETY: `encode` has written as many bytes as it says.
        assert_eq!(unsafe { name.decode(len) }, Some(addr));
        // SAFETY: as above; fewer are claimed here.
        assert_eq!(unsafe { name.decode(4) }, None);
    }
    name.encode("[::ffff:192.0.2.1]:5".parse().expect("an address"));
    // SAFETY: as above.
    let decoded = unsafe { name.decode(size_of::<libc::sockaddr_in6>() as libc::socklen_t) };
    assert_eq!(
        decoded,
        "192.0.2.1:5".parse().ok(),
        "never a mapped address"
    );
}

fn empty_name() -> Name {
    // SAFETY: all zeros is valid for both members.
    unsafe { zeroed() }
}
