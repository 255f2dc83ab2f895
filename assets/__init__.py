"""The styles that ship and the demo clip, as files beside this one."""
