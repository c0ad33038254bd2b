"""Everything that crosses the wire: envelopes, requests, replies, and the checks of both sides."""
