-- What wrk sends and what it says at the end. Usage:
--   wrk ... -s load.lua URL -- DEPTH [SLOW [FILE TYPE]]
--
-- DEPTH requests are sent in one write. There is no response() here, and no request()
-- unless SLOW is given: wrk then sends one prepared string and runs no Lua while it
-- measures. SLOW, if not 0: each SLOW-th write asks for /slow instead, once. FILE has a
-- body to send by POST, and TYPE is its Content-Type.

function init(args)
   if args[3] then
      local file = assert(io.open(args[3], "rb"))
      wrk.method, wrk.body = "POST", file:read("*a")
      wrk.headers["Content-Type"] = args[4]
      file:close()
   end
   local burst = string.rep(wrk.format(), tonumber(args[1]) or 1)
   local slow, every, n = wrk.format(nil, "/slow"), tonumber(args[2]) or 0, 0
   if every == 0 then
      wrk.format = function() return burst end
      return
   end
   function request()
      n = n + 1
      return n % every == 0 and slow or burst
   end
end

-- One line of JSON, which wrk.py reads. Times are in microseconds.
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "duration": %d, "bytes": %d, "errors": {"connect": %d, ' ..
      '"read": %d, "write": %d, "status": %d, "timeout": %d}, "latency": ' ..
      '{"p50": %d, "p99": %d, "p99.9": %d, "max": %d}}\n',
      summary.requests, summary.duration, summary.bytes, errors.connect,
      errors.read, errors.write, errors.status, errors.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
      latency.max))
end
