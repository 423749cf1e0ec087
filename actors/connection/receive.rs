//! The receiving half of a connection: frames, records, messages.

use mischief_reactor::Instant;

use super::bulk::BulkEvent;
use super::cipher::CipherError;
use super::config::MESSAGE_MAX_TRUSTED;
use super::error::{CloseCode, Error, Fault, shown_reason};
use super::frame::{FRAME_HEADER_BYTES, frame_bytes};
use super::machine::{Connection, STARVED_RETRY, Sink};
use super::reassembly::Reassembly;
use super::record::*;
use super::state::{APPLICATION, Active, Due, GOSSIP, LastWords, Phase, STREAM_IDS};
use super::stream::StreamId;

/// One record with what has to be known about its place.
struct Record<'a> {
    record_type: u8,
    body: &'a [u8],
    /// Header and body.
    bytes: usize,
    is_last: bool,
}

impl<'a> Record<'a> {
    fn malformed(&self) -> Fault {
        Fault::Record(self.record_type)
    }

    /// The fixed fields at the front of the body, and the rest.
    fn fields<const N: usize>(&self) -> Result<(&'a [u8; N], &'a [u8]), Fault> {
        self.body
            .split_first_chunk()
            .ok_or_else(|| self.malformed())
    }

    fn u32(&self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(*self.fields()?.0))
    }

    fn u32_u16(&self) -> Result<(u32, u16), Fault> {
        let (&[a, b, c, d, e, f], _) = self.fields()?;
        Ok((u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])))
    }
}

impl Connection {
    pub(crate) fn handle_frames(
        &mut self,
        now: Instant,
        mut input: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        if input.is_empty() || !self.takes_frames() {
            return Ok(());
        }
        // Parts of frames count as well, since a long frame may take a slow link a while. What is too slow for that
        // is found by its progress.
        self.alive.seen(now);
        if let Some(active) = &mut self.active
            && !active.partial.is_empty()
        {
            if !active.partial.fill(&mut input, self.suite)? {
                return Ok(());
            }
            let mut frame = active.partial.take_bytes();
            let result = self.handle_frame(now, &mut frame[FRAME_HEADER_BYTES..], sink);
            if let Some(active) = &mut self.active {
                active.used_at = now;
                active.partial.put_back(frame);
            }
            result?;
        }
        while self.takes_frames() {
            let Some(&header) = input.first_chunk::<FRAME_HEADER_BYTES>() else {
                break;
            };
            let whole = frame_bytes(header, self.suite)?;
            if input.len() < whole {
                break;
            }
            let (frame, rest) = input.split_at_mut(whole);
            self.handle_frame(now, &mut frame[FRAME_HEADER_BYTES..], sink)?;
            input = rest;
        }
        if !input.is_empty() && self.takes_frames() {
            let active = self.active.get_or_insert_default();
            active.used_at = now;
            active.partial.begin(now, input);
            self.look_by(now + self.config.timing.progress);
        }
        if self.is_open() && self.active.is_some() {
            self.look_by(now + self.config.timing.linger);
        }
        Ok(())
    }

    fn takes_frames(&self) -> bool {
        match &*self.phase {
            Phase::Verdict(_) | Phase::AwaitAccept(_) | Phase::Open => true,
            // With a refusal in clear there are no keys.
            Phase::Closing(end) => matches!(end.last_words, LastWords::Close(..)),
            _ => false,
        }
    }

    fn handle_frame(
        &mut self,
        now: Instant,
        frame: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let opened = self.receive.open(self.suite, frame);
        let plaintext = opened.map_err(|error| match error {
            CipherError::Rejected => Error::from(Fault::Frame),
            CipherError::Exhausted => Error::Exhausted,
        })?;
        self.handle_records(now, plaintext, sink)
    }

    /// Goes through the records of a frame. Small application messages that stand side by side are handed over in one
    /// run.
    fn handle_records(
        &mut self,
        now: Instant,
        plaintext: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let mut run = plaintext;
        let mut rest = plaintext;
        while !rest.is_empty() {
            let Some((record_type, body, after)) = split_record(rest) else {
                self.handle_run(&run[..run.len() - rest.len()], sink)?;
                return Err(Fault::Record(rest[0]).into());
            };
            if (MESSAGE_JSON..=MESSAGE_BYTES).contains(&record_type) {
                if let Err(fault) = check_message(record_type, body) {
                    self.handle_run(&run[..run.len() - rest.len()], sink)?;
                    return Err(fault.into());
                }
                rest = after;
                continue;
            }
            self.handle_run(&run[..run.len() - rest.len()], sink)?;
            let record = Record {
                record_type,
                body,
                bytes: rest.len() - after.len(),
                is_last: after.is_empty(),
            };
            self.handle_record(now, &record, sink)?;
            if !self.takes_frames() {
                return Ok(());
            }
            rest = after;
            run = after;
        }
        self.handle_run(run, sink)
    }

    #[inline]
    fn handle_run(&mut self, run: &[u8], sink: &mut dyn Sink) -> Result<(), Error> {
        if run.is_empty() {
            return Ok(());
        }
        match *self.phase {
            Phase::Open => {}
            // Nobody listens any longer.
            Phase::Closing(_) => return Ok(()),
            _ => return Err(Fault::RecordOutOfTurn(run[0]).into()),
        }
        let window = &mut self.application.receive;
        window.receive(StreamId::APPLICATION, run.len())?;
        if let Some(active) = &self.active
            && active.reassembly[APPLICATION].is_some()
        {
            return Err(Fault::RecordOutOfTurn(run[0]).into());
        }
        sink.records(Records::new(run));
        Ok(())
    }

    fn handle_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        match (&*self.phase, record.record_type) {
            (_, PADDING | SKIPPABLE..) => return Ok(()),
            (_, CLOSE) => return self.handle_close(record),
            (Phase::AwaitAccept(None), ACCEPT) => {
                self.open(now);
                return Ok(());
            }
            (Phase::Open | Phase::Closing(_), record_type) if record_type != ACCEPT => {}
            (_, record_type) => return Err(Fault::RecordOutOfTurn(record_type).into()),
        }
        match record.record_type {
            PING..=CONTROL => self.handle_control(now, record, sink)?,
            MESSAGE_CHANNEL => self.handle_channel(APPLICATION, record, sink)?,
            GOSSIP_CHANNEL => self.handle_channel(GOSSIP, record, sink)?,
            MESSAGE_FIRST => self.handle_first(now, APPLICATION, record, sink)?,
            MESSAGE_NEXT => self.handle_next(now, APPLICATION, record, sink)?,
            GOSSIP_FIRST => self.handle_first(now, GOSSIP, record, sink)?,
            GOSSIP_NEXT => self.handle_next(now, GOSSIP, record, sink)?,
            BULK_OPEN..=BULK_STOP => self.handle_bulk(record, sink)?,
            record_type => return Err(Fault::RecordType(record_type).into()),
        }
        Ok(())
    }

    fn handle_close(&mut self, record: &Record<'_>) -> Result<(), Error> {
        let (code, reason) = record.fields()?;
        self.end(Error::ClosedByPeer {
            code: CloseCode::from_number(u16::from_be_bytes(*code)),
            reason: shown_reason(reason),
        });
        Ok(())
    }

    fn handle_control(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        match record.record_type {
            // Only the latest is answered, so that a flood of pings costs no memory.
            PING => {
                self.seldom().pong = record.u32()?;
                self.due.set(Due::PONG);
            }
            PONG => {
                if let Some(rtt) = self.alive.pong(now, record.u32()?) {
                    self.rtt.sample(rtt);
                }
            }
            WINDOW => {
                let (&[a, b, c, d, e, f, g, h], _) = record.fields()?;
                let stream = u32::from_be_bytes([a, b, c, d]);
                self.handle_grant(stream, u32::from_be_bytes([e, f, g, h]))?;
            }
            REKEY => {
                if !record.is_last {
                    return Err(Fault::RecordOutOfTurn(REKEY));
                }
                self.receive.rekey(self.suite);
            }
            LIMITS => {
                let message_max = record.u32()?.min(MESSAGE_MAX_TRUSTED);
                if message_max != self.peer_message_max() {
                    self.seldom().peer.message_max = message_max;
                }
                self.due.set(Due::MESSAGE_MAX);
            }
            _ => {
                let (&[channel], body) = record.fields()?;
                if body.len() > CONTROL_BODY_MAX {
                    return Err(record.malformed());
                }
                if self.is_open() {
                    sink.channel(ChannelMessage {
                        class: Class::Control,
                        channel,
                        body,
                        credit: 0,
                    });
                }
            }
        }
        Ok(())
    }

    fn handle_grant(&mut self, stream: u32, bytes: u32) -> Result<(), Fault> {
        if let Some(index) = STREAM_IDS.iter().position(|id| id.0 == stream) {
            return self.stream(index).send.grant(bytes);
        }
        let opened = StreamId::BULK_FIRST.0..StreamId::BULK_FIRST.0 + self.bulk_counts().0;
        match &mut self.active {
            Some(active) if opened.contains(&stream) => active.bulk.handle_grant(stream, bytes),
            None if opened.contains(&stream) => Ok(()),
            _ => Err(Fault::Stream(stream)),
        }
    }

    fn handle_channel(
        &mut self,
        index: usize,
        record: &Record<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        self.spend(index, record)?;
        let Some((&[channel], body)) = split_label(record.body) else {
            return Err(record.malformed());
        };
        if self.reassembly(index).is_some() {
            return Err(Fault::RecordOutOfTurn(record.record_type));
        }
        if self.is_open() {
            sink.channel(ChannelMessage {
                class: class_of(index),
                channel,
                body,
                credit: record.bytes as u32,
            });
        }
        Ok(())
    }

    fn handle_first(
        &mut self,
        now: Instant,
        index: usize,
        record: &Record<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        self.spend(index, record)?;
        let first = First::decode(record.record_type, record.body)?;
        if first.counted() > self.message_max() {
            return Err(Fault::MessageTooLarge {
                size: u64::from(first.counted()),
                max: self.message_max(),
            });
        }
        if self.reassembly(index).is_some() {
            return Err(Fault::RecordOutOfTurn(record.record_type));
        }
        if !self.is_open() {
            return Ok(());
        }
        let memory = std::mem::take(&mut self.active().spare_body);
        let reassembly = Reassembly::new(now, &first, record.bytes, memory);
        self.go_on(now, index, reassembly, sink)
    }

    fn handle_next(
        &mut self,
        now: Instant,
        index: usize,
        record: &Record<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        self.spend(index, record)?;
        if !self.is_open() {
            return Ok(());
        }
        let Some(mut reassembly) = self.reassembly(index).take() else {
            return Err(Fault::RecordOutOfTurn(record.record_type));
        };
        let (part, rest) = (record.body, reassembly.rest());
        if part.len() > rest || part.len() < rest.min(PART_MIN) {
            return Err(record.malformed());
        }
        reassembly.add(part, record.bytes);
        self.go_on(now, index, reassembly, sink)
    }

    /// Delivers a message if it is whole, else keeps it.
    fn go_on(
        &mut self,
        now: Instant,
        index: usize,
        mut reassembly: Reassembly,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        if reassembly.rest() > 0 {
            let is_covered = self.cover(now, index, &mut reassembly)?;
            let active = self.active();
            active.used_at = now;
            active.is_starved |= !is_covered;
            active.reassembly[index] = Some(reassembly);
            if !is_covered {
                self.look_by(now + STARVED_RETRY);
            }
            return Ok(());
        }
        let (kind, credit) = (First::message_kind(reassembly.kind), reassembly.encoded());
        let (bytes, label_bytes) = reassembly.into_parts();
        let Some(kind) = kind else {
            sink.channel(ChannelMessage {
                class: class_of(index),
                channel: bytes[0],
                body: &bytes[label_bytes..],
                credit,
            });
            return Ok(());
        };
        if kind == Kind::Text && std::str::from_utf8(&bytes[label_bytes..]).is_err() {
            return Err(Fault::Record(MESSAGE_FIRST));
        }
        sink.large(LargeMessage {
            kind,
            name_bytes: label_bytes,
            bytes,
            credit,
        });
        Ok(())
    }

    fn handle_bulk(&mut self, record: &Record<'_>, sink: &mut dyn Sink) -> Result<(), Fault> {
        let limits = self.config.limits;
        let stream = record.u32()?;
        let id = StreamId(stream);
        let is_open = self.is_open();
        let opened = StreamId::BULK_FIRST.0..StreamId::BULK_FIRST.0 + self.bulk_counts().1;
        let is_known = opened.contains(&stream) && record.record_type != BULK_OPEN;
        match record.record_type {
            BULK_OPEN => {
                let (&[_, _, _, _, channel], header) = record.fields()?;
                if stream != opened.end || header.len() > BULK_HEADER_MAX {
                    return Err(Fault::Stream(stream));
                }
                self.seldom().bulk_seen += 1;
                let bulk = &mut self.active().bulk;
                bulk.handle_open(stream, limits.window, limits.bulk_streams_max)?;
                if is_open {
                    sink.bulk(id, BulkEvent::Opened { channel, header });
                }
            }
            BULK_STOP => {
                let (_, code) = record.u32_u16()?;
                self.active().bulk.handle_stop(stream)?;
                if is_open {
                    sink.bulk(id, BulkEvent::Stopped { code });
                }
            }
            _ if !is_known => return Err(Fault::Stream(stream)),
            BULK_DATA => {
                let bytes = &record.body[4..];
                let credit = record.bytes as u32;
                let is_wanted = self.active().bulk.handle_data(stream, record.bytes)?;
                if is_wanted && is_open {
                    sink.bulk(id, BulkEvent::Data { bytes, credit });
                }
            }
            BULK_END => {
                let is_wanted = self.active().bulk.handle_over(stream, limits.window)?;
                if is_wanted && is_open {
                    sink.bulk(id, BulkEvent::Ended);
                }
            }
            _ => {
                let (_, code) = record.u32_u16()?;
                let is_wanted = self.active().bulk.handle_over(stream, limits.window)?;
                if is_wanted && is_open {
                    sink.bulk(id, BulkEvent::Reset { code });
                }
            }
        }
        Ok(())
    }

    fn spend(&mut self, index: usize, record: &Record<'_>) -> Result<(), Fault> {
        let window = &mut self.stream(index).receive;
        window.receive(STREAM_IDS[index], record.bytes)
    }

    fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    fn reassembly(&mut self, index: usize) -> &mut Option<Reassembly> {
        &mut self.active().reassembly[index]
    }
}

fn class_of(index: usize) -> Class {
    match index {
        APPLICATION => Class::Application,
        _ => Class::Gossip,
    }
}
