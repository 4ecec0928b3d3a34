-- Each thread goes through the file of requests from a place of its own; at the end a line of JSON.
-- With a number of models, requests go to /models/m0/invoke, /models/m1/invoke, ... in turn.
local bodies = {}
local place = 0
local threads = 0
local models = 0

function setup(thread)
  thread:set("first", threads * 97)
  threads = threads + 1
end

function init(args)
  for line in io.lines(args[1]) do
    bodies[#bodies + 1] = line
  end
  models = tonumber(args[2] or 0)
  place = first
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  place = place + 1
  local path = models > 0 and string.format("/models/m%d/invoke", place % models) or nil
  return wrk.format(nil, path, nil, bodies[place % #bodies + 1])
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "max": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
