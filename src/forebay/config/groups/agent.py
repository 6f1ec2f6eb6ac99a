"""The agent, and where its engine listens."""

from functools import partial

from forebay.config.groups.group import ENGINE, Group, declare

setting = partial(declare, group="agent")


class AgentSettings(Group):
    agent_host: str = setting("127.0.0.1", "Address of the agent's own pages.", roles=ENGINE)
    agent_port: int = setting(9000, "Port of the agent's own pages; 0 takes a free one.", roles=ENGINE, ge=0, le=65_535)
    engine_host: str = setting(
        "127.0.0.1",
        "Address that the agent's engine listens on; beyond loopback it needs upstream_api_key.",
        roles=ENGINE,
    )
    engine_port: int = setting(8000, "Port that the agent's engine listens on.", roles=ENGINE, ge=1, le=65_535)
