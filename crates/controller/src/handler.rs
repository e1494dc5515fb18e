//! One method per command: what a controller must be able to do.

use wire::{
    Arm, Arming, Barrier, ClearTrip, Command, Configuration, ExternalScan, Heartbeat, Hello, Ping,
    PositionRecords, Refusal, ReplaySamples, SampleAck, UniformPositions,
};

/// Obeys commands, each of which is described at its type in [`wire::Command`]. `arming` is that of the packet's header. A refused
/// command changes nothing.
#[expect(
    missing_docs,
    reason = "the methods are the commands, which are documented where they are defined"
)]
#[expect(
    clippy::missing_errors_doc,
    reason = "every method refuses for the reasons that its command states"
)]
pub trait Handler {
    fn hello(&mut self, session: u32, hello: &Hello) -> Result<(), Refusal>;
    fn configure(&mut self, configuration: &Configuration) -> Result<(), Refusal>;
    fn arm(&mut self, arming: Arming, arm: &Arm) -> Result<(), Refusal>;
    fn positions(&mut self, arming: Arming, batch: &PositionRecords<'_>) -> Result<(), Refusal>;
    fn positions_uniform(
        &mut self,
        arming: Arming,
        batch: &UniformPositions<'_>,
    ) -> Result<(), Refusal>;
    fn barrier(&mut self, arming: Arming, barrier: &Barrier) -> Result<(), Refusal>;
    fn park(&mut self, arming: Arming) -> Result<(), Refusal>;
    fn disarm(&mut self, arming: Arming) -> Result<(), Refusal>;
    fn clear_trip(&mut self, clear: &ClearTrip) -> Result<(), Refusal>;
    fn external_scan(&mut self, external_scan: &ExternalScan) -> Result<(), Refusal>;
    fn bye(&mut self) -> Result<(), Refusal>;
    fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), Refusal>;
    fn blank(&mut self) -> Result<(), Refusal>;
    fn abort(&mut self, arming: Arming) -> Result<(), Refusal>;
    fn ping(&mut self, ping: &Ping) -> Result<(), Refusal>;
    fn replay_samples(&mut self, arming: Arming, replay: &ReplaySamples) -> Result<(), Refusal>;
    fn sample_ack(&mut self, arming: Arming, ack: &SampleAck) -> Result<(), Refusal>;
    fn query_status(&mut self) -> Result<(), Refusal>;
}

/// Calls the method of a command.
///
/// # Errors
/// The [`Refusal`] of that method.
pub fn dispatch(
    command: &Command<'_>,
    arming: Arming,
    handler: &mut impl Handler,
) -> Result<(), Refusal> {
    match command {
        Command::Hello(m) => handler.hello(arming.session, m),
        Command::Configure(m) => handler.configure(m),
        Command::Arm(m) => handler.arm(arming, m),
        Command::Positions(m) => handler.positions(arming, m),
        Command::PositionsUniform(m) => handler.positions_uniform(arming, m),
        Command::Barrier(m) => handler.barrier(arming, m),
        Command::Park => handler.park(arming),
        Command::Disarm => handler.disarm(arming),
        Command::ClearTrip(m) => handler.clear_trip(m),
        Command::ExternalScan(m) => handler.external_scan(m),
        Command::Bye => handler.bye(),
        Command::Heartbeat(m) => handler.heartbeat(m),
        Command::Blank => handler.blank(),
        Command::Abort => handler.abort(arming),
        Command::Ping(m) => handler.ping(m),
        Command::ReplaySamples(m) => handler.replay_samples(arming, m),
        Command::SampleAck(m) => handler.sample_ack(arming, m),
        Command::QueryStatus => handler.query_status(),
    }
}
