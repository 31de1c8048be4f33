Feature: What the registry says of a pool's health
  Ready is never advertised before the model answered, and the last error stays until a success.

  Scenario: A pool nobody asked for is not ready
    Given a pool "chat" with 2 slots
    When Corral runs
    Then "chat" is not ready

  Scenario: A pool is ready once its engine answered
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    Then "chat" is live and ready
    And "chat" has 2 of 2 slots free

  Scenario: Loading is not ready
    Given a pool "slow" whose engine needs 1500 ms to load
    When the pool "slow" is started
    Then "slow" is not ready
    And "slow" is never ready before its engine answers

  Scenario: A healthy face is not an answer
    Given a pool "liar" whose engine says it is healthy before it can answer
    When the pool "liar" is started
    Then "liar" is never ready before its engine answers

  Scenario: The last error is kept
    Given a pool "broken" whose engine cannot start
    When the pool "broken" is started
    Then "broken" has a last error that mentions "model"
    And "broken" is not ready

  Scenario: Pools are listed in order
    Given a pool "zebra" with 1 slot
    And a pool "ant" with 1 slot
    And a pool "mole" with 1 slot
    When Corral runs
    Then pools are listed in the order of their ids
