// A scan by a program that knows nothing of Beamwright but its `.proto` files: takes control, keeps it, says what a plan
// costs, starts it, receives every sample, writes a picture, gives control back.
//
//     acquire [HOST:PORT [PICTURE.pgm]]
//
// Exit codes: 0 complete, 1 refused or failed, with the service's own sentence.

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "beamwright/v1/acquisition.grpc.pb.h"
#include "beamwright/v1/control.grpc.pb.h"
#include "beamwright/v1/sample.grpc.pb.h"

namespace api = beamwright::v1;

// What a refused call says: the field, the value and the range stand in the message.
void check(const grpc::Status& status, const char* call) {
  if (!status.ok()) throw std::runtime_error(std::string(call) + ": " + status.error_message());
}

// Control of the beam. Without a renewal the service blanks within the time to live, so a thread renews it; a program that
// only waits for an answer would lose it.
class Lease {
 public:
  explicit Lease(const std::shared_ptr<grpc::Channel>& channel) : stub_(api::ControlService::NewStub(channel)) {
    grpc::ClientContext context;
    api::AcquireLeaseRequest request;
    request.set_holder("the C++ example");
    api::AcquireLeaseResponse grant;
    check(stub_->AcquireLease(&context, request, &grant), "AcquireLease");
    token = grant.lease();
    if (!renew()) throw std::runtime_error("RenewLease: control was lost at once");
    keeper_ = std::thread([this, pause = std::chrono::milliseconds(grant.ttl_ms() / 4)] {
      std::unique_lock<std::mutex> lock(mutex_);
      while (!released_.wait_for(lock, pause, [this] { return is_over_; })) renew();
    });
  }

  // Gives control back, which blanks the beam.
  ~Lease() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = true;
    }
    released_.notify_one();
    if (keeper_.joinable()) keeper_.join();
    grpc::ClientContext context;
    api::ReleaseLeaseRequest request;
    *request.mutable_lease() = token;
    api::ReleaseLeaseResponse answer;
    stub_->ReleaseLease(&context, request, &answer);
  }

  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  api::LeaseToken token;

 private:
  bool renew() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    api::RenewLeaseRequest request;
    *request.mutable_lease() = token;
    api::RenewLeaseResponse answer;
    return stub_->RenewLease(&context, request, &answer).ok();
  }

  std::unique_ptr<api::ControlService::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable released_;
  bool is_over_ = false;
  std::thread keeper_;
};

// Little-endian float32, as all bulk of the API is.
std::vector<float> floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// Brightest = 255; pixels that were not visited are black.
void write_picture(const std::string& path, const std::vector<float>& sums, std::uint32_t rows, std::uint32_t cols) {
  const float most = std::max(*std::max_element(sums.begin(), sums.end()), 1e-9f);
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << cols << " " << rows << "\n255\n";
  for (float sum : sums) file.put(static_cast<char>(std::clamp(sum / most, 0.0f, 1.0f) * 255));
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

void acquire(const std::string& address, const std::string& picture) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto acquisitions = api::AcquisitionService::NewStub(channel);
  const Lease lease(channel);

  api::CreateAcquisitionRequest create;
  *create.mutable_lease() = lease.token;
  api::Plan& plan = *create.mutable_plan();
  plan.mutable_field()->mutable_grid()->set_n_rows(64);
  plan.mutable_field()->mutable_grid()->set_n_cols(64);
  plan.mutable_pattern()->set_kind(api::PATTERN_KIND_JITTERED);
  plan.set_fraction(0.25);
  plan.mutable_exposure()->set_dwell_ns(20'000);
  api::CreateAcquisitionResponse created;
  grpc::ClientContext creating;
  check(acquisitions->CreateAcquisition(&creating, create, &created), "CreateAcquisition");
  const api::Acquisition& told = created.acquisition();
  std::cout << told.name() << ": " << told.prediction().n_positions() << " positions, " << told.prediction().scan_time_ns() * 1e-6 << " ms, "
            << told.prediction().dose_e_per_a2() << " e/A^2\n";

  api::StartAcquisitionRequest start;
  *start.mutable_lease() = lease.token;
  start.set_name(told.name());
  api::StartAcquisitionResponse started;
  grpc::ClientContext starting;
  check(acquisitions->StartAcquisition(&starting, start, &started), "StartAcquisition");

  // Every position comes once, in order, as a sample or in a gap; `next` is where a broken stream would go on.
  const std::uint32_t rows = told.field().grid().n_rows(), cols = told.field().grid().n_cols();
  std::vector<float> sums(std::size_t{rows} * cols);
  std::uint64_t next = 0, n_gaps = 0;
  api::StreamSamplesRequest wanted;
  wanted.set_name(told.name());
  wanted.set_omit_paths(true);
  grpc::ClientContext streaming;
  const auto sample_service = api::SampleService::NewStub(channel);
  const auto stream = sample_service->StreamSamples(&streaming, wanted);
  api::StreamSamplesResponse answer;
  while (stream->Read(&answer)) {
    if (answer.has_gap()) {
      next += answer.gap().n_positions();
      n_gaps += answer.gap().n_positions();
    } else if (answer.has_samples()) {
      const api::SampleChunk& chunk = answer.samples();
      if (chunk.first_sequence() != next) throw std::runtime_error("StreamSamples: a position is missing");
      next += chunk.n_positions();
      const auto row = floats(chunk.row_px()), col = floats(chunk.col_px()), events = floats(chunk.signals(0).values());
      for (std::size_t i = 0; i < events.size(); ++i) sums[static_cast<std::size_t>(row[i] + 0.5f) * cols + static_cast<std::size_t>(col[i] + 0.5f)] += events[i];
    }
  }
  check(stream->Finish(), "StreamSamples");

  // The last sample is in; the instrument is free for the next one when estimate and files are complete, too.
  api::WatchAcquisitionRequest watched;
  watched.set_name(told.name());
  grpc::ClientContext watching;
  const auto states = acquisitions->WatchAcquisition(&watching, watched);
  api::WatchAcquisitionResponse state;
  while (states->Read(&state)) {
  }
  check(states->Finish(), "WatchAcquisition");
  if (state.acquisition().state() != api::ACQUISITION_STATE_FINISHED) throw std::runtime_error(told.name() + ": " + state.acquisition().result().text());

  double total = 0;
  for (float sum : sums) total += sum;
  write_picture(picture, sums, rows, cols);
  std::cout << next << " positions, " << n_gaps << " without a sample, " << total << " events\n";
}

int main(int argc, char** argv) {
  try {
    acquire(argc > 1 ? argv[1] : "127.0.0.1:7410", argc > 2 ? argv[2] : "picture.pgm");
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
