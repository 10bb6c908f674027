-- One body of the file a request, in turn; at the end a line of JSON: answers with 200, us, failures, percentiles in us.
local bodies, turn = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do bodies[#bodies + 1] = line end
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  turn = turn % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[turn])
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"good": %d, "us": %d, "failed": %d, "p50": %d, "p99": %d}\n',
    summary.requests - errors.status, summary.duration, errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
