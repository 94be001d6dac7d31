"""Zero-cost proxies: what an untrained network says of the score that training would bring."""
