Feature: Draining a pool
  Draining refuses new leases and takes releases; at zero, or at the deadline, the engine stops.

  Scenario: A drain waits for what runs
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And 1 stream of "chat" runs
    And "chat" is drained with a deadline of 60000 ms
    And "chat" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    When the client of every stream leaves
    Then the drain ends by itself with 0 leases left
    And no engine of "chat" runs

  Scenario: A drain that is not waited for
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And 1 stream of "chat" runs
    And "chat" is drained with a deadline of 200 ms
    Then the drain is forced
    And no engine of "chat" runs

  Scenario: A drain is taken back
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And 1 stream of "chat" runs
    And "chat" is drained with a deadline of 60000 ms
    And "chat" is undrained
    And the client of every stream leaves
    And "chat" is asked
    Then the answer is 200
