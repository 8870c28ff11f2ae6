"""The address at which states of older versions look for the provider of EndpointCheck.

Dynamic providers stand in the state by reference, and `pulumi refresh` and `pulumi destroy` load them from there
without running the program. Remove this module when no stack is left whose last release predates `endpoint_check`:
each change of an endpoint's release writes the new reference.
"""

from infra.endpoint_check import EndpointProvider

__all__ = ["EndpointProvider"]
