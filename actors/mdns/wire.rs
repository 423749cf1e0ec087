//! Packets from and to bytes. The format of names and sections is read and written by the crate `domain`; this file
//! decides what is taken out and how much goes into one packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message::RecordSection;
use domain::base::message_builder::RecordSectionBuilder;
use domain::base::name::ToLabelIter;
use domain::base::rdata::UnknownRecordData;
use domain::base::record::{ComposeRecord, ParsedRecord};
use domain::base::wire::Composer;
use domain::base::{Message, MessageBuilder, Name as WireName, ParsedName, TreeCompressor, Ttl};
use domain::rdata::{Nsec, Ptr, Srv};

use super::error::WireError;
use super::name::Name;
use super::record::{Data, Kind, Packet, Question, Record};

/// The largest packet that is read, with everything that IP and UDP put before it taken off (RFC 6762 §17: 9000 bytes).
pub(crate) const PACKET_BYTES_MAX: usize = 9000 - 28;
/// The largest packet that is sent: what an Ethernet frame carries over IPv6, with some room for tunnels.
pub(crate) const SENT_BYTES_MAX: usize = 1440;
/// The top bit of a class: "unicast will do" in a question (RFC 6762 §5.4), "flush the cache" in a record (§10.2).
const TOP_BIT: u16 = 0x8000;

/// Reads a packet. Records of other classes are left out.
pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, WireError> {
    if bytes.len() > PACKET_BYTES_MAX {
        return Err(WireError::Malformed);
    }
    let message = Message::from_slice(bytes).map_err(|_| WireError::Malformed)?;
    let header = message.header();
    if header.opcode() != Opcode::QUERY || header.rcode() != Rcode::NOERROR {
        return Err(WireError::NotMulticastDns);
    }
    let mut packet = Packet {
        id: header.id(),
        is_response: header.qr(),
        is_truncated: header.tc(),
        ..Packet::default()
    };
    let mut questions = message.question();
    for question in &mut questions {
        let question = question.map_err(malformed)?;
        let class = question.qclass().to_int();
        if !matches!(Class::from_int(class & !TOP_BIT), Class::IN | Class::ANY) {
            continue;
        }
        packet.questions.push(Question {
            name: name(question.qname())?,
            kind: Kind(question.qtype().to_int()),
            wants_unicast: class & TOP_BIT != 0,
        });
    }
    let answers = questions.answer().map_err(malformed)?;
    let rest = records(answers, &mut packet.answers)?;
    let rest = records(rest.ok_or(WireError::Malformed)?, &mut packet.authorities)?;
    records(rest.ok_or(WireError::Malformed)?, &mut packet.additionals)?;
    Ok(packet)
}

fn malformed<E>(_: E) -> WireError {
    WireError::Malformed
}

/// Reads a section and gives the next one.
fn records<'a>(
    mut section: RecordSection<'a, [u8]>,
    into: &mut Vec<Record>,
) -> Result<Option<RecordSection<'a, [u8]>>, WireError> {
    for parsed in &mut section {
        let parsed = parsed.map_err(malformed)?;
        if let Some(record) = record(&parsed)? {
            into.push(record);
        }
    }
    section.next_section().map_err(malformed)
}

/// One record; `None` for a class other than IN, and for the pseudo record OPT, whose class is a size.
fn record(parsed: &ParsedRecord<'_, [u8]>) -> Result<Option<Record>, WireError> {
    let class = parsed.class().to_int();
    if parsed.rtype() == Rtype::OPT || Class::from_int(class & !TOP_BIT) != Class::IN {
        return Ok(None);
    }
    let data = match parsed.rtype() {
        Rtype::PTR => {
            let ptr = parsed.to_record::<Ptr<ParsedName<&[u8]>>>();
            let ptr = ptr.map_err(malformed)?.ok_or(WireError::Malformed)?;
            Data::Ptr(name(ptr.data().ptrdname())?)
        }
        Rtype::SRV => {
            let srv = parsed.to_record::<Srv<ParsedName<&[u8]>>>();
            let srv = srv.map_err(malformed)?.ok_or(WireError::Malformed)?;
            Data::Srv {
                priority: srv.data().priority(),
                weight: srv.data().weight(),
                port: srv.data().port(),
                host: name(srv.data().target())?,
            }
        }
        Rtype::NSEC => {
            let nsec = parsed.to_record::<Nsec<&[u8], ParsedName<&[u8]>>>();
            let nsec = nsec.map_err(malformed)?.ok_or(WireError::Malformed)?;
            let kinds = nsec.data().types().iter();
            Data::Nsec {
                next: name(nsec.data().next_name())?,
                kinds: kinds.map(|kind| Kind(kind.to_int())).collect(),
            }
        }
        kind => {
            let raw = parsed.to_record::<UnknownRecordData<&[u8]>>();
            let raw = raw.map_err(malformed)?.ok_or(WireError::Malformed)?;
            plain_data(kind, raw.data().data())?
        }
    };
    Ok(Some(Record {
        name: name(&parsed.owner())?,
        is_flush: class & TOP_BIT != 0,
        ttl: parsed.ttl().as_secs(),
        data,
    }))
}

/// Data without names in it.
fn plain_data(kind: Rtype, bytes: &[u8]) -> Result<Data, WireError> {
    Ok(match kind {
        Rtype::A => {
            let octets: [u8; 4] = bytes.try_into().map_err(malformed)?;
            Data::A(Ipv4Addr::from(octets))
        }
        Rtype::AAAA => {
            let octets: [u8; 16] = bytes.try_into().map_err(malformed)?;
            Data::Aaaa(Ipv6Addr::from(octets))
        }
        // RFC 6763 §6.1: a record without any string is to be taken for one empty string.
        Rtype::TXT if bytes.is_empty() => Data::Txt([0].into()),
        Rtype::TXT => {
            let mut rest = bytes;
            while let Some((len, tail)) = rest.split_first() {
                rest = tail.get(usize::from(*len)..).ok_or(WireError::Malformed)?;
            }
            Data::Txt(bytes.into())
        }
        other => Data::Other(Kind(other.to_int()), bytes.into()),
    })
}

fn name(parsed: &ParsedName<&[u8]>) -> Result<Name, WireError> {
    let labels = parsed.iter_labels().map(|label| label.as_slice());
    Name::from_labels(labels.filter(|label| !label.is_empty())).map_err(malformed)
}

/// A record in the form that the crate writes.
struct Wired<'a> {
    name: &'a WireName<[u8]>,
    class: Class,
    ttl: Ttl,
    data: WiredData<'a>,
}

enum WiredData<'a> {
    /// The one kind whose data is compressed. SRV is not: a legacy querier could not read it (RFC 6762 §18.14).
    Ptr(&'a WireName<[u8]>),
    Plain(UnknownRecordData<Vec<u8>>),
}

impl<'a> Wired<'a> {
    fn new(record: &'a Record) -> Option<Wired<'a>> {
        let top = if record.is_flush { TOP_BIT } else { 0 };
        let data = match &record.data {
            Data::Ptr(target) => WiredData::Ptr(wire(target)?),
            data => {
                let kind = Rtype::from_int(data.kind().0);
                WiredData::Plain(UnknownRecordData::from_octets(kind, data.to_bytes()).ok()?)
            }
        };
        Some(Wired {
            name: wire(&record.name)?,
            class: Class::from_int(Class::IN.to_int() | top),
            ttl: Ttl::from_secs(record.ttl),
            data,
        })
    }
}

impl ComposeRecord for Wired<'_> {
    fn compose_record<Target: Composer + ?Sized>(
        &self,
        target: &mut Target,
    ) -> Result<(), Target::AppendError> {
        match &self.data {
            WiredData::Ptr(name) => {
                (self.name, self.class, self.ttl, Ptr::new(*name)).compose_record(target)
            }
            WiredData::Plain(data) => {
                (self.name, self.class, self.ttl, data).compose_record(target)
            }
        }
    }
}

fn wire(name: &Name) -> Option<&WireName<[u8]>> {
    WireName::from_slice(name.as_wire()).ok()
}

/// Adds records until one has no room.
fn push_all(
    records: &[Record],
    builder: &mut impl RecordSectionBuilder<TreeCompressor<Vec<u8>>>,
) -> Option<()> {
    records
        .iter()
        .try_for_each(|record| builder.push(Wired::new(record)?).ok())
}

impl Packet {
    /// The packet as bytes; `None` if it does not fit into `bytes_max`. Additionals that do not fit are left out, since
    /// nobody depends on them.
    pub(crate) fn encode(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let target = TreeCompressor::new(Vec::with_capacity(512));
        let mut builder = MessageBuilder::from_target(target).ok()?;
        builder.set_push_limit(bytes_max);
        let header = builder.header_mut();
        header.set_id(self.id);
        header.set_qr(self.is_response);
        // RFC 6762 §18.4: every answer is one with authority.
        header.set_aa(self.is_response);
        header.set_tc(self.is_truncated);
        let mut builder = builder.question();
        for question in &self.questions {
            let top = if question.wants_unicast { TOP_BIT } else { 0 };
            let class = Class::from_int(Class::IN.to_int() | top);
            let kind = Rtype::from_int(question.kind.0);
            builder.push((wire(&question.name)?, kind, class)).ok()?;
        }
        let mut builder = builder.answer();
        push_all(&self.answers, &mut builder)?;
        let mut builder = builder.authority();
        push_all(&self.authorities, &mut builder)?;
        let mut builder = builder.additional();
        let _ = push_all(&self.additionals, &mut builder);
        Some(builder.finish().into_target())
    }

    /// The packet as one or more packets of a size that every link carries. A query whose known answers continue says so
    /// (RFC 6762 §7.2). One record that is too large for that goes alone, and not at all if it is too large for anybody.
    pub(crate) fn encode_all(self, into: &mut Vec<Vec<u8>>) {
        if let Some(bytes) = self.encode(SENT_BYTES_MAX) {
            return into.push(bytes);
        }
        let mut first = self;
        let mut second = Packet {
            is_response: first.is_response,
            is_truncated: first.is_truncated,
            ..Packet::default()
        };
        if first.answers.len() > 1 || (first.answers.len() == 1 && !first.questions.is_empty()) {
            // A query's first packet may have questions alone.
            let at = first.answers.len() / 2;
            second.answers = first.answers.split_off(at);
            second.additionals = std::mem::take(&mut first.additionals);
            first.is_truncated = !first.is_response;
        } else if first.questions.len() > 1 {
            let at = first.questions.len() / 2;
            second.questions = first.questions.split_off(at);
            let is_asked = |record: &Record| {
                let mut asked = second.questions.iter();
                asked.any(|question| question.name == record.name)
            };
            let (later, now) = first.authorities.into_iter().partition(is_asked);
            first.authorities = now;
            second.authorities = later;
        } else {
            into.extend(first.encode(PACKET_BYTES_MAX));
            return;
        }
        first.encode_all(into);
        second.encode_all(into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Name {
        Name::plain(text).unwrap()
    }

    fn record(name: &str, data: Data) -> Record {
        Record {
            name: plain(name),
            is_flush: data.kind() != Kind::PTR,
            ttl: 120,
            data,
        }
    }

    fn whole() -> Packet {
        let answers = vec![
            record("_rats._tcp.local", Data::Ptr(plain("a._rats._tcp.local"))),
            record(
                "a._rats._tcp.local",
                Data::Srv {
                    priority: 1,
                    weight: 2,
                    port: 9000,
                    host: plain("h.local"),
                },
            ),
            record(
                "a._rats._tcp.local",
                Data::Txt(b"\x04id=7".as_slice().into()),
            ),
            record("h.local", Data::A([192, 0, 2, 1].into())),
            record("h.local", Data::Aaaa("fe80::1".parse().unwrap())),
            record(
                "h.local",
                Data::Nsec {
                    next: plain("h.local"),
                    kinds: vec![Kind::A, Kind::AAAA],
                },
            ),
            record(
                "h.local",
                Data::Other(Kind(13), b"\x01x\x01y".as_slice().into()),
            ),
        ];
        Packet {
            id: 7,
            is_response: true,
            is_truncated: false,
            questions: vec![Question {
                name: plain("_rats._tcp.local"),
                kind: Kind::PTR,
                wants_unicast: true,
            }],
            authorities: answers[1..3].to_vec(),
            additionals: answers[3..].to_vec(),
            answers,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let packet = whole();
        let bytes = packet.encode(SENT_BYTES_MAX).unwrap();
        let read = decode(&bytes).unwrap();
        assert_eq!((read.id, read.is_response), (7, true));
        assert_eq!(read.questions, packet.questions);
        for (read, written) in [
            (&read.answers, &packet.answers),
            (&read.authorities, &packet.authorities),
            (&read.additionals, &packet.additionals),
        ] {
            assert_eq!(read.len(), written.len());
            for (read, written) in read.iter().zip(written) {
                assert!(read.is_same(written), "{read:?} {written:?}");
                assert_eq!((read.ttl, read.is_flush), (120, written.is_flush));
            }
        }
    }

    #[test]
    fn cut_and_flipped_packets_are_refused_or_read_but_never_more() {
        let bytes = whole().encode(SENT_BYTES_MAX).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = decode(&bytes);
            }
        }
    }

    /// A response with one PTR record whose owner is what `owner` says.
    fn with_owner(owner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend(owner);
        bytes.extend([0, 12, 0, 1, 0, 0, 0, 120, 0, 1, 0]);
        bytes
    }

    #[test]
    fn pointers_go_backwards_or_nowhere() {
        assert!(decode(&with_owner(b"\x01a\x00")).is_ok());
        assert!(decode(&with_owner(b"\xc0\x0c")).is_err(), "to itself");
        assert!(decode(&with_owner(b"\x01a\xc0\x0c")).is_err(), "a loop");
        assert!(decode(&with_owner(b"\xc0\x14")).is_err(), "forward");
        assert!(
            decode(&with_owner(b"\xff\xff")).is_err(),
            "out of the packet"
        );
        assert!(
            decode(&with_owner(b"\x41aaaaaaaaaa\x00")).is_err(),
            "a label type of nobody"
        );
        let long = [&[63][..], &[b'a'; 63]].concat().repeat(4);
        assert!(
            decode(&with_owner(&[&long[..], b"\x00"].concat())).is_err(),
            "257 bytes"
        );
    }

    /// RFC 1035 §4.1.4: F.ISI.ARPA at 20, FOO.F.ISI.ARPA at 40, ARPA at 64 and the root at 92.
    #[test]
    fn the_compression_example_of_rfc_1035() {
        let mut bytes = vec![0; 12];
        bytes[5] = 4;
        let question = |bytes: &mut Vec<u8>, at: usize, name: &[u8]| {
            // What lies between is skipped by a question with labels of its own.
            while bytes.len() < at {
                bytes.push(0);
            }
            bytes.extend(name);
            bytes.extend([0, 1, 0, 1]);
        };
        question(&mut bytes, 12, b"\x01F\x03ISI\x04ARPA\x00");
        question(&mut bytes, 28, b"\x03FOO\xc0\x0c");
        question(&mut bytes, 38, b"\xc0\x12");
        question(&mut bytes, 44, b"\x00");
        let read = decode(&bytes).unwrap();
        let names: Vec<_> = read.questions.iter().map(|q| q.name.to_string()).collect();
        assert_eq!(names, ["F.ISI.ARPA", "FOO.F.ISI.ARPA", "ARPA", ""]);
    }

    #[test]
    fn other_operations_and_codes_are_not_multicast_dns() {
        let mut bytes = whole().encode(SENT_BYTES_MAX).unwrap();
        bytes[3] |= 3;
        assert_eq!(decode(&bytes).unwrap_err(), WireError::NotMulticastDns);
        bytes[3] &= !3;
        bytes[2] |= 0x28;
        assert_eq!(decode(&bytes).unwrap_err(), WireError::NotMulticastDns);
    }

    #[test]
    fn a_text_record_without_strings_is_one_empty_string() {
        let empty = record("a.local", Data::Txt([].into()));
        let packet = Packet {
            answers: vec![empty],
            ..Packet::default()
        };
        let read = decode(&packet.encode(SENT_BYTES_MAX).unwrap()).unwrap();
        assert_eq!(read.answers[0].data, Data::Txt([0].into()));
    }

    #[test]
    fn what_is_too_much_for_one_packet_goes_in_several() {
        let mut packet = Packet {
            questions: whole().questions,
            ..Packet::default()
        };
        for index in 0..200 {
            let target = plain(&format!("instance-{index}._rats._tcp.local"));
            packet
                .answers
                .push(record("_rats._tcp.local", Data::Ptr(target)));
        }
        let mut all = Vec::new();
        packet.encode_all(&mut all);
        assert!(all.len() > 2, "{}", all.len());
        let read: Vec<_> = all.iter().map(|bytes| decode(bytes).unwrap()).collect();
        let answers: usize = read.iter().map(|packet| packet.answers.len()).sum();
        assert_eq!(answers, 200);
        for (index, packet) in read.iter().enumerate() {
            assert_eq!(packet.questions.len(), usize::from(index == 0));
            assert_eq!(packet.is_truncated, index + 1 < read.len());
            assert!(all[index].len() <= SENT_BYTES_MAX);
        }
    }
}
